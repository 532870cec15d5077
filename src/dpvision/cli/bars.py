"""Progress as bars on a terminal, of 80 columns too; a line beneath them has what changes without end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dpvision.cli.progress import EpsilonInWords, MemoryInWords, rate

if TYPE_CHECKING:
    from dpvision.privacy import Account
    from dpvision.runs import Progress as Told

MEMORY_PAUSE = 1.0  # seconds between two looks at the memory

SECONDS_OF_RATE = 3600.0
"""The rate is that of so long, or of the last 1,000 steps: one step may take minutes."""


@contextmanager
def bars(console: Console) -> Iterator[Told]:
    """Show progress as bars, one for each thing that is done."""
    epsilon = EpsilonInWords()
    with _Bars(console) as shown:

        def update(what: str, done: int, total: int, account: Account | None = None) -> None:
            shown.tell(what, done, total, epsilon.of(account))

        yield update


class _Bars(Progress):
    """The bars, and beneath them the rate of what is done now, and the memory."""

    def __init__(self, console: Console) -> None:
        self._of: dict[str, TaskID] = {}
        self._now: TaskID | None = None
        self._memory, self._held, self._next_look = MemoryInWords(), "", 0.0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[epsilon]}"),
        )
        super().__init__(*columns, console=console, transient=True, speed_estimate_period=SECONDS_OF_RATE)

    def tell(self, what: str, done: int, total: int, epsilon: str) -> None:
        """Show how far something is."""
        if what not in self._of:
            self._of[what] = self.add_task(what, total=total, epsilon="")
        self._now = self._of[what]
        self.update(self._now, completed=done, total=total, epsilon=epsilon)

    def get_renderables(self) -> Iterator[RenderableType]:
        """Return what is drawn: some times a second, by a thread of its own."""
        yield from super().get_renderables()
        now = time.monotonic()
        if now >= self._next_look:
            self._held, self._next_look = self._memory.now(), now + MEMORY_PAUSE
        speed = next((task.speed for task in self.tasks if task.id == self._now), None)
        yield Text(", ".join(filter(None, [rate(speed) if speed else "", self._held])), style="dim")
