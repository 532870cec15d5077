"""Tell on stderr how far work has come: by bars on a terminal, by lines where logs are kept."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from dpvision.cli.output import duration, in_bytes
from dpvision.runs.epsilon_so_far import EpsilonSoFar
from dpvision.runs.memory import gpu_bytes, held_bytes, peak_bytes

if TYPE_CHECKING:
    from dpvision.privacy import Account
    from dpvision.runs import Progress

FIRST_LINE, LINES, SILENCE = 5.0, 20.0, 50.0
"""The seconds until the first line of progress, between later lines, and, where work tells nothing new, until
a line says so: less than a minute, for such a line may be late."""

MARKS = 6
"""The rate is that since so many lines ago: the first steps of a run are slower than the others."""


@contextmanager
def work_bars() -> Iterator[Progress]:
    """Tell on stderr what is done, how far it is, its rate, the time left, the memory and, of a run, the ε so
    far: as bars, or, where stderr is no terminal, as a line now and then, and at least once a minute.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        from dpvision.cli.bars import bars

        shown = bars(console)
    else:
        shown = _lines()
    with shown as progress:
        yield progress


class EpsilonInWords:
    """The ε of an account so far, in words."""

    def __init__(self) -> None:
        self._so_far = EpsilonSoFar()

    def of(self, account: Account | None) -> str:
        """Return what is known of the account, as text; empty without an account."""
        if account is None:
            return ""
        found = self._so_far.of(account)
        return f"ε {'…' if found is None else f'{found:.2f}'} of {account.budget.epsilon:g}"


class MemoryInWords:
    """The memory of this process and those that it has started, and the most there was, in words."""

    def __init__(self) -> None:
        self._most = 0

    def now(self) -> str:
        """Say how much there is now: of GPUs too, where some are used."""
        held = held_bytes()
        self._most = max(self._most, held or 0, peak_bytes())
        said = [self._words("memory", held, self._most)]
        gpu = gpu_bytes()
        if gpu is not None:
            said.append(self._words("GPU", *gpu))
        return ", ".join(said)

    @staticmethod
    def _words(what: str, held: int | None, most: int) -> str:
        if held is None:
            return f"peak {what} {in_bytes(most)}"
        return f"{what} {in_bytes(held)} (peak {in_bytes(most)})"


class _Lines:
    """Progress as lines: where logs are kept, and nobody sees a bar."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a line is said by one thread at a time
        self._account, self._memory = EpsilonInWords(), MemoryInWords()
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
        typer.echo(", ".join(filter(None, [begun, self._epsilon, *more, self._memory.now()])), err=True)
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
        return [rate(1 / each), f"{duration(max(left * each - silent, (left - 1) * each))} left"]

    def _silence(self, seconds: float) -> str:
        """Say what takes so long."""
        if not self._total:
            return f"{duration(seconds)} so far"
        what = f"{self._done + 1} takes" if self._done < self._total else "what follows takes"
        return f"{what} {duration(seconds)} so far"


def rate(of_a_second: float) -> str:
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
