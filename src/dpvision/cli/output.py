"""What commands show: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from dpvision.privacy import Account

# ε so far takes up to a second to compute: it may cost one part in this many of the time.
EPSILON_PAUSE = 200
LEAST_EPSILON_PAUSE = 5.0  # seconds


def show(fields: dict[str, Any], as_json: bool, text: str) -> None:
    """A command's result: one JSON object on one line, or text for people."""
    typer.echo(json.dumps(fields) if as_json else printable(text))


def printable(text: str, *, breaks: bool = True) -> str:
    """A text without what a terminal would obey: names of files and classes come from others.

    Args:
        text: to be shown.
        breaks: whether it may have several lines.
    """
    from dpvision.images.images import written_out

    return written_out(text, keep="\n" if breaks else "")


def table(rows: dict[str, object]) -> str:
    """Names and values in two columns, each pair on a line of its own."""
    width = max(map(len, rows))
    return "\n".join(printable(f"{name:{width}}  {value}", breaks=False) for name, value in rows.items())


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def show_messages() -> None:
    """Announcements of the package (such as a size that was chosen) go to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable())
    logger = logging.getLogger("dpvision")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(record.getMessage())


@contextmanager
def bar(description: str, *more: str) -> Iterator[Progress]:
    """A bar on stderr, if that is a terminal: a description, how much is done, time left, and more columns.

    The texts are formats that rich fills in from the task.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        *map(TextColumn, more),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress


@contextmanager
def work_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each thing that is done."""
    with bar("{task.description}") as progress:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield update


@contextmanager
def resumable_bars() -> Iterator[Callable[[str, int, int], None]]:
    """`work_bars` for a command that is repeated after Ctrl-C, which ends it with a word on that."""
    with work_bars() as update:
        try:
            yield update
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on from what is written", err=True)
            raise typer.Exit(130) from None


@contextmanager
def interruptible(run: Path | str) -> Iterator[None]:
    """Ctrl-C ends the command with a word on how to go on with the run."""
    try:
        yield
    except KeyboardInterrupt:
        began = (Path(run) / "private").is_dir()
        hint = f"go on with: dpvision resume {shlex.quote(str(run))}" if began else "nothing was spent"
        typer.echo(f"interrupted; {hint}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, Account], None]]:
    """A bar of steps, time left, ε. Yields dpvision.train's progress."""
    with bar("training", "ε {task.fields[epsilon]}") as progress:
        task = progress.add_task("", total=None, epsilon="…")
        next_epsilon = time.monotonic() + LEAST_EPSILON_PAUSE

        def update(done: int, total: int, account: Account) -> None:
            nonlocal next_epsilon
            progress.update(task, completed=done, total=total)
            started = time.monotonic()
            if progress.console.is_terminal and started >= next_epsilon:
                progress.update(task, epsilon=f"{account.epsilon_spent():.2f} of {account.budget.epsilon:g}")
                ended = time.monotonic()
                next_epsilon = ended + max(LEAST_EPSILON_PAUSE, EPSILON_PAUSE * (ended - started))

        yield update
