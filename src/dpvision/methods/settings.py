"""Settings of a method: frozen dataclasses of public values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, get_origin, get_type_hints

from dpvision.privacy.errors import InputError

_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a name",
    dict: "a table of options",
    list: "a list",
}
_SETTING_TYPES = tuple(_NAMES)


def setting_types(config_class: type) -> dict[str, type]:
    """Names of the settings, and the types (of JSON) that they take."""
    hints = get_type_hints(config_class)
    found = {}
    for field in dataclasses.fields(config_class):
        hint = get_origin(hints[field.name]) or hints[field.name]
        found[field.name] = hint if hint in _SETTING_TYPES else str  # the rest are Literals of names
    return found


def with_overrides(config: Any, overrides: Mapping[str, Any]) -> Any:
    """``config`` with some settings replaced. InputError for a setting that does not exist, or a value of
    another type than it takes.
    """
    refuse_unknown(type(config), overrides)
    types = setting_types(type(config))
    for name, value in overrides.items():
        check(_fits(value, types[name]), name, _NAMES[types[name]], repr(value))
    return dataclasses.replace(config, **overrides)


def _fits(value: object, needed: type) -> bool:
    """Whether a value is of a type, a whole number being a number too, but true and false being none."""
    if needed in (int, float):
        return isinstance(value, int if needed is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, tuple if needed is list and isinstance(value, tuple) else needed)


def refuse_unknown(config_class: type, settings: Iterable[str]) -> None:
    """InputError for a setting that does not exist."""
    known = setting_types(config_class)
    unknown = set(settings) - known.keys()
    if unknown:
        raise InputError(f"there is no setting '{min(unknown)}'; choose from {', '.join(sorted(known))}")


def check(holds: bool, name: str, needed: str, value: object) -> None:
    """InputError, naming the setting, unless ``holds``."""
    if not holds:
        raise InputError(f"{name} must be {needed}, not {value}")
