"""Settings of a method: frozen dataclasses of public values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, Union, get_origin, get_type_hints

from dpvision.privacy.errors import InputError
from dpvision.privacy.values import MOST_COUNT, fits, in_words

_JSON_TYPES = (bool, int, float, str, dict, list)

Config = TypeVar("Config")

LEAST_SHARE = 1e-6
"""The least share of a budget, in terms of 1/σ²: a smaller one is of no use, and its ε may round to 0."""


def setting_types(config_class: type) -> dict[str, Any]:
    """List the settings by name, with the types (of JSON) that they take."""
    hints = get_type_hints(config_class)
    found = {}
    for field in dataclasses.fields(config_class):
        hint = hints[field.name]
        if get_origin(hint) not in (Union, UnionType):
            hint = get_origin(hint) or hint
            hint = hint if hint in _JSON_TYPES else str  # the rest are Literals of names
        found[field.name] = hint
    return found


def check_settings(config_class: type, settings: Mapping[str, Any]) -> None:
    """Refuse settings that a method does not have, or of another type than it takes.

    Raises:
        InputError: names the first such setting.
    """
    types = setting_types(config_class)
    unknown = settings.keys() - types.keys()
    if unknown:
        raise InputError(f"there is no setting '{min(unknown)}'; choose from {', '.join(sorted(types))}")
    for name, value in settings.items():
        if not fits(value, types[name]):
            raise InputError(f"the setting {name} takes {in_words(types[name])}, not {value!r}")
        if isinstance(value, int) and abs(value) > MOST_COUNT:
            raise InputError(f"the setting {name} must be a smaller number, at most {MOST_COUNT:,}")


def with_overrides(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Replace some settings.

    Raises:
        InputError: as :func:`check_settings`, or a value is out of range.
    """
    check_settings(type(config), overrides)
    return dataclasses.replace(config, **overrides)  # type: ignore[type-var]


def check_share(share: float, name: str) -> None:
    """Raise InputError, naming the setting, unless a share of a budget leaves something for both parts."""
    needed = f"at least {LEAST_SHARE:g} and at most {1 - LEAST_SHARE:g}"
    check(LEAST_SHARE <= share <= 1 - LEAST_SHARE, name, needed, share)


def check(holds: bool, name: str, needed: str, value: object) -> None:
    """Raise InputError, naming the setting, unless ``holds``."""
    if not holds:
        raise InputError(f"{name} must be {needed}, not {value}")
