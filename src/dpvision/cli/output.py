"""Show the output of commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from dpvision.privacy import Account
    from dpvision.runs import Progress

# ε so far takes up to a second to compute: it may cost one part in this many of the time.
EPSILON_PAUSE = 200
LEAST_EPSILON_PAUSE = 5.0  # seconds

FIRST_LINE, LINES = 5.0, 20.0
"""The seconds until the first line of progress, and between later lines."""


def show(fields: Mapping[str, Any], as_json: bool, text: str | Mapping[str, object]) -> None:
    """Show a command's result: one JSON object on one line, or text for people, or rows of a `table`."""
    if as_json:
        typer.echo(json.dumps(fields))
    else:
        typer.echo(printable(text if isinstance(text, str) else table(text)))


def printable(text: str, *, breaks: bool = True) -> str:
    """Return a text without what a terminal would obey: names of files and classes come from others.

    Args:
        text: to be shown.
        breaks: whether it may have several lines.
    """
    from dpvision.images.text import written_out

    return written_out(text, keep="\n" if breaks else "")


def command_line() -> str:
    """Return the command as it would be typed in a shell."""
    return shlex.join(["dpvision", *sys.argv[1:]])


def table(rows: Mapping[str, object]) -> str:
    """Lay out names and values in two columns, each pair on a line of its own."""
    return columns([[name, str(value)] for name, value in rows.items()])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of as many cells in columns, each row on a line of its own."""
    shown = [[printable(cell, breaks=False) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in shown)
    return "\n".join(line.rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Write seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def show_messages() -> None:
    """Send announcements of the package (such as a size that was chosen) to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable())
    logger = logging.getLogger("dpvision")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


@contextmanager
def work_bars() -> Iterator[Progress]:
    """Tell on stderr what is done, how far it is, the time left and, of a run, the ε so far: as bars, or,
    where stderr is no terminal, as a line now and then.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    with _bars(console) as bars:
        yield bars


class _EpsilonSoFar:
    """The ε of an account in words, not computed anew more often than it may cost."""

    def __init__(self) -> None:
        self._text = ""
        self._next = time.monotonic() + LEAST_EPSILON_PAUSE

    def of(self, account: Account | None) -> str:
        """Return what is known of the account, as text; empty without an account."""
        if account is None:
            return ""
        started = time.monotonic()
        if started >= self._next:
            self._text = f"ε {account.epsilon_spent():.2f} of {account.budget.epsilon:g}"
            ended = time.monotonic()
            self._next = ended + max(LEAST_EPSILON_PAUSE, EPSILON_PAUSE * (ended - started))
        return self._text or f"ε … of {account.budget.epsilon:g}"


class _Lines:
    """Progress as lines: where logs are kept, and nobody sees a bar."""

    def __init__(self) -> None:
        self._epsilon, self._what, self._began, self._next = _EpsilonSoFar(), "", 0.0, 0.0
        self._begins_at = 0

    def __call__(self, what: str, done: int, total: int, account: Account | None = None) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._begins_at, self._next = what, now, done, now + FIRST_LINE
        if now < self._next:
            return
        self._next = now + LINES
        steps = done - self._begins_at
        left = f", {duration((now - self._began) / steps * (total - done))} left" if steps else ""
        epsilon = self._epsilon.of(account)
        typer.echo(f"{what}: {done} of {total}{left}{', ' if epsilon else ''}{epsilon}", err=True)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    """Show progress as bars, one for each thing that is done: on 80 columns too."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[epsilon]}"),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        epsilon = _EpsilonSoFar()

        def update(what: str, done: int, total: int, account: Account | None = None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, epsilon="")
            bars.update(tasks[what], completed=done, total=total, epsilon=epsilon.of(account))

        yield update


@contextmanager
def interruptible(told: str = "", *, run: Path | str | None = None) -> Iterator[None]:
    """Let Ctrl-C end the command with a word on what is left of its work.

    Args:
        told: that word.
        run: the directory of the run that is worked on; then the word is how to go on with it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if run is not None:
            began = Path(run, "private").is_dir()
            told = f"go on with: dpvision resume {shlex.quote(str(run))}" if began else "nothing was spent"
        typer.echo(f"interrupted; {told}", err=True)
        raise typer.Exit(130) from None


def repeatable() -> AbstractContextManager[None]:
    """Let Ctrl-C end a command that goes on where it was when it is given again."""
    return interruptible("the same command goes on from what is written")
