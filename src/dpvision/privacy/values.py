"""Check that values that users give are of the types, and in the ranges, that they must be."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dpvision.privacy.errors import InputError

LARGEST_RATE = 1e20
"""The largest learning rate. No training takes such steps, and far larger numbers are none in float32."""

LEAST_WEIGHT, MOST_WEIGHT = 1e-3, 1e3
"""The range of what scales a part of a release beside others: beyond it one part has all of the noise."""

MOST_COUNT = 2**53
"""The largest whole number of a setting: each up to there is a float too."""


def fits(value: Any, hint: Any) -> bool:
    """Say whether a value is of the type that a parameter, setting or option is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str)  # which ones there are, whoever takes it says
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(fits(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, _STANDS_FOR.get(hint, origin or hint))


_STANDS_FOR: dict[Any, Any] = {int: Integral, float: Real, list: (list, tuple)}


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a name",
    dict: "a table",
    list: "a list",
}


def in_words(hint: Any) -> str:
    """Return the type as people say it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        words = [in_words(argument) for argument in arguments if argument is not NoneType]
        return "a path" if "a path" in words else " or ".join(words)
    if origin is Sequence:
        return f"a list, each {in_words(arguments[0])}"
    if origin in (Mapping, dict):
        return "a table"
    if origin is os.PathLike:
        return "a path"
    return "a name" if origin is Literal else _WORDS[hint]


def check_rate(rate: float, name: str) -> None:
    """Raise InputError, naming the setting, unless steps can be scaled by a learning rate."""
    if not 0 < rate <= LARGEST_RATE:
        raise InputError(f"{name} must be above 0 and at most {LARGEST_RATE:g}, not {rate}")


def check_weight(weight: float, name: str, or_else: str = "") -> None:
    """Raise InputError, naming the setting, unless a part of a release can be scaled by a weight. ``or_else``
    says what else it may be.
    """
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise InputError(
            f"{name} must be {or_else}between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}, not {weight}"
        )
