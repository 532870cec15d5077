"""End a command that was interrupted in good order, by Ctrl-C or by a scheduler."""

from __future__ import annotations

import math
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Timer
from types import FrameType

import typer

from dpvision.privacy.uninterrupted import INTERRUPTIONS

GRACE = 30.0
"""Seconds in which a command may save what it has. Schedulers and impatient people ask again meanwhile."""

LATER, LONGEST_IMPORT = 0.05, 20.0
"""Seconds after which a signal that came during an import comes again, and for how long it does."""


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C's has asked the program to end: what handles the one handles the other.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def taking_interruptions() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise an exception in the main thread, as Ctrl-C does, so that what is under way
    is saved. Another signal within `GRACE` does not break that off. When this is left, nothing is under way
    any more, and each of them ends the program at once. Signals that whoever started the program has it
    ignore (nohup) stay ignored. One that comes while modules are imported waits until they are, or for
    `LONGEST_IMPORT`: of a module that was broken off its library may make any error, or none.
    """
    last, first = -math.inf, math.inf

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = min(first, now)
        if now < first + LONGEST_IMPORT and _is_importing(frame):
            again = Timer(LATER, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        if now >= last + GRACE:
            last = now
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    taken = [number for number in INTERRUPTIONS if signal.getsignal(number) != signal.SIG_IGN]
    try:
        for number in taken:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _is_importing(frame: FrameType | None) -> bool:
    """Say whether the import of a module is under way in a frame or whatever called it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


@contextmanager
def interruptible(told: str = "", *, run: Path | str | None = None) -> Iterator[None]:
    """Let an interruption end the command with a word on what is left of its work, and with the exit code
    that shells have for the signal: 130 for Ctrl-C, 143 for SIGTERM.

    Args:
        told: that word.
        run: the directory of the run that is worked on; then the word is how to go on with it.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        if run is not None:
            began = Path(run, "private").is_dir()
            told = f"go on with: dpvision resume {shlex.quote(str(run))}" if began else "nothing was spent"
        by_signal = isinstance(interruption, Terminated)
        with suppress(OSError):  # the terminal may be gone
            said = "terminated" if by_signal else "interrupted"
            typer.echo(f"{said}; {told}" if told else said, err=True)
        number = interruption.number if isinstance(interruption, Terminated) else signal.SIGINT
        raise typer.Exit(128 + number) from None


def repeatable() -> AbstractContextManager[None]:
    """Let an interruption end a command that goes on where it was when it is given again."""
    return interruptible("the same command goes on from what is written")
