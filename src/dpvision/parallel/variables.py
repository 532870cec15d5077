"""The variables by which a launcher tells a process that it is one of several."""

from __future__ import annotations

import os

from dpvision.privacy.errors import InputError


def are_several() -> bool:
    """Say whether this process was started as one of several. It costs no import."""
    return number("WORLD_SIZE", 1) > 1


def follows() -> bool:
    """Say whether this process was started as another than the first of several, likewise."""
    return are_several() and number("RANK", 0) > 0


def number(variable: str, default: int) -> int:
    """Return a variable of the environment. InputError where it is no number."""
    text = os.environ.get(variable, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise InputError(f"the variable {variable} must be a number, not {text!r}; unset it") from None
