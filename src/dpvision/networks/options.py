"""Options that users name: whether there are such, and of which type."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dpvision.privacy.errors import InputError


def check_options(
    what: str, builder: Callable[..., Any], options: Mapping[str, Any], others: Collection[str]
) -> None:
    """Refuse options that ``builder``, a class or a function, does not take, or of another type than it says.

    Args:
        what: is built, for the message.
        builder: its parameters are the options, but for ``others``.

    Raises:
        InputError: names the first such option.
    """
    known = [name for name in inspect.signature(builder).parameters if name not in others]
    unknown = options.keys() - set(known)
    if unknown:
        listing = ", ".join(sorted(known)) or "none"
        raise InputError(f"{what} has no option '{min(unknown)}'; its options: {listing}")
    hints = get_type_hints(builder.__init__ if inspect.isclass(builder) else builder)
    for name, value in options.items():
        if not fits(value, hints[name]):
            raise InputError(f"{what}: {name} must be {in_words(hints[name])}, not {value!r}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value, of a JSON type, is of the type that a parameter or setting is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str)  # which ones there are, the builder says
    if origin is Sequence:
        return isinstance(value, list | tuple) and all(fits(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping)
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, int | float if hint is float else hint)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a name",
    dict: "a table",
    list: "a list",
}


def in_words(hint: Any) -> str:
    """The type as people say it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(in_words(argument) for argument in arguments if argument is not NoneType)
    if origin is Sequence:
        return f"a list, each {in_words(arguments[0])}"
    if origin is Mapping:
        return "a table"
    return "a name" if origin is Literal else _WORDS[hint]
