"""The errors that dpvision raises when the input, not the program, is at fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_interface = {"command line": False}


@contextmanager
def on_command_line() -> Iterator[None]:
    """Let messages name options as the command line has them while this lasts, in all threads."""
    before, _interface["command line"] = _interface["command line"], True
    try:
        yield
    finally:
        _interface["command line"] = before


def named_option(name: str, value: object = "…") -> str:
    """Return how an option is given at the interface at hand: ``--value-range 0:4095`` or
    ``value_range='0:4095'``; ``--skip-unreadable`` or ``skip_unreadable=True``.
    """
    if not _interface["command line"]:
        return f"{name}={value}" if value == "…" else f"{name}={value!r}"
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag} {value}"


def first_line(error: BaseException) -> str:
    """Return the first line of what another library's error says, without a full stop at its end: "" where
    it says nothing.
    """
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), "").rstrip(".")


def reason_of(error: BaseException) -> str:
    """Return the first line of what another library's error says, or the name of its type where it says
    nothing.
    """
    return first_line(error) or type(error).__name__


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that says what is wrong, where, and how to mend it. The command line prints it
    and exits with code 2. A bug in dpvision never raises it.
    """


class BudgetExceeded(InputError):  # noqa: N818 (reads as what happened)
    """A release was refused: it would spend more privacy than its plan or the data set's owner allows."""
