"""Tell on stderr how far work has come: by bars on a terminal, by lines where logs are kept."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from dpvision.cli.output import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from dpvision.privacy import Account
    from dpvision.runs import Progress

# ε so far takes up to a second to compute: it may cost one part in this many of the time.
EPSILON_PAUSE = 200
LEAST_EPSILON_PAUSE = 5.0  # seconds

FIRST_LINE, LINES, SILENCE = 5.0, 20.0, 50.0
"""The seconds until the first line of progress, between later lines, and, where work tells nothing new, until
a line says so: less than a minute, for such a line may be late."""

MARKS = 6
"""The rate is that since so many lines ago: the first steps of a run are slower than the others."""


@contextmanager
def work_bars() -> Iterator[Progress]:
    """Tell on stderr what is done, how far it is, the time left and, of a run, the ε so far: as bars, or,
    where stderr is no terminal, as a line now and then, and at least once a minute.
    """
    from rich.console import Console

    console = Console(stderr=True)
    with _bars(console) if console.is_terminal else _lines() as progress:
        yield progress


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
        self._lock = threading.Lock()  # a line is said by one thread at a time
        self._account = _EpsilonSoFar()
        self._what, self._done, self._total, self._epsilon = "preparing", 0, 0, ""
        self._news = self._said = time.monotonic()  # when something new was told, and when a line was said
        self._next = 0.0
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)  # when how much was done

    def __call__(self, what: str, done: int, total: int, account: Account | None = None) -> None:
        # In the thread that works, and in no other: it alone may look into the account.
        epsilon = self._account.of(account)
        with self._lock:
            now = time.monotonic()
            if what != self._what:
                self._what, self._next = what, now + FIRST_LINE
                self._marks.clear()
                self._marks.append((now, done))
            self._done, self._total, self._epsilon, self._news = done, total, epsilon, now
            if now >= self._next:
                self._say(now, self._pace())
                self._next = now + LINES
                self._marks.append((now, done))

    def repeat(self, ended: threading.Event) -> None:
        """Say what is known again whenever nothing was said for long, until the work has ended."""
        with suppress(OSError):  # nobody reads what is said any more
            while not ended.wait(self._said + SILENCE - time.monotonic()):
                with self._lock:
                    now = time.monotonic()
                    if now >= self._said + SILENCE:
                        self._say(now, [*self._pace(now - self._news), self._silence(now - self._news)])

    def _say(self, now: float, more: list[str]) -> None:
        begun = f"{self._what}: {self._done} of {self._total}" if self._total else self._what
        typer.echo(", ".join(filter(None, [begun, self._epsilon, *more])), err=True)
        self._said = now

    def _pace(self, silent: float = 0.0) -> list[str]:
        """Return the rate and the time left in words, after so many seconds without news."""
        if not self._marks:
            return []
        began, done_then = self._marks[0]
        done, left = self._done - done_then, self._total - self._done
        if done <= 0 or left <= 0:
            return []
        each = (self._news - began) / done
        # What is being done now may take longer than it should; what comes after it takes as long as ever.
        return [_rate(1 / each), f"{duration(max(left * each - silent, (left - 1) * each))} left"]

    def _silence(self, seconds: float) -> str:
        """Say what takes so long."""
        if not self._total:
            return f"{duration(seconds)} so far"
        what = f"{self._done + 1} takes" if self._done < self._total else "what follows takes"
        return f"{what} {duration(seconds)} so far"


def _rate(of_a_second: float) -> str:
    """Write how many are done in a second, a minute or an hour: in the first of these that has one."""
    for seconds, name in ((1, "s"), (60, "min")):
        if of_a_second * seconds >= 1:
            return f"{of_a_second * seconds:.3g}/{name}"
    return f"{of_a_second * 3600:.2g}/h"


@contextmanager
def _lines() -> Iterator[Progress]:
    """Show progress as lines, the last of which is said again by a thread while the work is silent."""
    lines, ended = _Lines(), threading.Event()
    repeating = threading.Thread(target=lines.repeat, args=[ended], name="progress", daemon=True)
    repeating.start()
    try:
        yield lines
    finally:
        ended.set()
        repeating.join()  # no line comes after the work


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
