"""The settings of a run as rows of a table: those that do something, and those that are switched off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_OFF = (None, False, 0, "", "none")


class SettingsRows(NamedTuple):
    """The settings, each with its name and value: ``on`` and ``off``. Those of a part have its name and a dot
    before theirs.
    """

    on: dict[str, Any]
    off: dict[str, Any]


def settings_rows(config: Mapping[str, Any]) -> SettingsRows:
    """Return the settings of a configuration as rows."""
    on: dict[str, Any] = {}
    off: dict[str, Any] = {}
    for name, value in flat("", config):
        (off if _is_off(value) else on)[name] = value
    return SettingsRows(on, off)


def flat(before: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the settings; those of a part one by one, with the part's name and a dot before theirs, and
    ``before`` all of them.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(f"{before}{name}.", value)
        else:
            yield f"{before}{name}", value


def _is_off(value: Any) -> bool:
    return value in _OFF or (isinstance(value, list | tuple | Mapping) and not value)
