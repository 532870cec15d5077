"""Settings that are places on the owner's machine, and what stands for them in what is published."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dpvision.methods.continued import FROM_RUN, REFINE

STANDING_FOR = {"pool": "POOL", "encoder": "ENCODER", REFINE: "RELEASE", FROM_RUN: "RELEASE"}
"""What stands for a place, by the setting; `FILE` stands for that of any other."""

FILE = "FILE"

ALWAYS_PLACES = ("pool", "weights", REFINE, FROM_RUN)
"""Settings that are places, whatever they look like."""

FILES = (".safetensors", ".npz", ".parquet")
"""How names of files end that settings may have."""


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with POOL, ENCODER, RELEASE or FILE for each that is a place on the owner's machine,
    however deep in tables and lists. The names of those of a part may have its name and a dot before theirs.
    """
    return {name: _told(name, value) for name, value in settings.items()}


def hides_a_place(value: Any) -> bool:
    """Say whether the value of a setting is, or has in it, what stands for a place."""
    if isinstance(value, Mapping):
        return any(map(hides_a_place, value.values()))
    if isinstance(value, list):
        return any(map(hides_a_place, value))
    return value in (FILE, *STANDING_FOR.values())


def _told(name: str, value: Any) -> Any:
    """Return a setting's value, or what stands for it where it is a place."""
    if isinstance(value, Mapping):
        return without_places(value)
    if isinstance(value, list | tuple):
        return [_told(name, one) for one in value]
    if not isinstance(value, str) or not value:
        return value
    setting = name.rpartition(".")[2]
    is_place = os.sep in value or any(part.endswith(FILES) for part in value.split("+"))
    return STANDING_FOR.get(setting, FILE) if setting in ALWAYS_PLACES or is_place else value
