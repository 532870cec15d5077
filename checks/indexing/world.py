"""A home with overlapping data sets and the jobs that work on them, each attempt in a process of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

from checks.indexing.jobs import REFUSED, DataSet, Job
from checks.indexing.reading import State
from checks.trials import Ended, start, wait

UNIVERSE, LARGE = 8_000, 100_000
"""How many images there are, and in a world with a large data set."""


def nothing() -> None:
    """Befalls a process that is let be."""


class World:
    """What the processes did, kept apart from what they write.

    Attributes:
        jobs: all that were begun.
        pending: those that are not done: they were killed, or left their run open.
        faults: what is wrong.
    """

    def __init__(self, folder: Path, universe: int = UNIVERSE) -> None:
        self.folder, self.home, self.universe = folder, folder / "home", universe
        shutil.rmtree(folder, ignore_errors=True)
        self.home.mkdir(parents=True)
        self.jobs: list[Job] = []
        self.pending: list[Job] = []
        self.faults: list[str] = []
        self.refused = 0

    def start(self, job: Job, befalls: Callable[[], None] = nothing) -> int:
        """Begin an attempt in a process that begins with ``befalls``; its number."""
        if job not in self.jobs:
            self.jobs.append(job)
        os.environ["DPVISION_HOME"] = str(self.home)

        def work() -> int:
            befalls()
            return job.go(self.home, self._file("said", job))

        self._file("output", job).touch()  # a kill at any time may come before the process has made it
        return start(work, self._file("output", job))

    def wait(self, child: int, job: Job) -> Ended:
        """Until the attempt has ended."""
        ended = wait(child, self._file("output", job))
        job.listen(self._file("said", job))
        job.kills += ended.killed
        return ended

    def state(self) -> State:
        return State(self.home, self.universe)

    def make_room(self, job: Job, units: int) -> None:
        """Let a limit have room for so many units more than its images have by now. One that is lower holds
        only for runs to come.
        """
        if job.kind == "limit":
            job.planned = int(self.state().counted(self.jobs)[job.data.images].max()) + units

    def take(self, job: Job, ended: Ended, state: State) -> None:
        """Look at what an attempt has led to, and whether another is due."""
        if job in self.pending:
            self.pending.remove(job)
        run = state.books.runs.get(job.name)
        if ended.killed:
            if run is None or run.is_open:
                self.pending.append(job)
        elif ended.code == REFUSED:
            self.refused += 1
            if (
                "over their owner's limit" not in ended.output
                and "over its owner's limit" not in ended.output
            ):
                self.faults.append(f"{job.name} was refused without a reason: {ended.output.strip()}")
            elif not state.has_no_room(job, self.jobs):
                self.faults.append(f"{job.name} was refused, and there was room: {ended.output.strip()}")
        elif ended.code != 0:
            self.faults.append(f"{job.name} did not go on: {ended.output.strip()}")

    def look(self, state: State) -> None:
        self.faults += state.faults(self.jobs)

    def finish(self) -> None:
        """Let all that is pending go on to its end, one after the other, unless there are faults."""
        while self.pending and not self.faults:
            job = self.pending[0]
            self.make_room(job, 1)
            ended = self.wait(self.start(job), job)
            state = self.state()
            self.take(job, ended, state)
            self.look(state)

    def _file(self, name: str, job: Job) -> Path:
        return self.folder / f"{name} {self.jobs.index(job)}"


def data_sets(random: Random, universe: int) -> list[DataSet]:
    """Sets of one to thousands of images that overlap, the same images in another ledger, all but one of
    them; and, where the universe is large, all of it.
    """
    sizes = [1, random.randint(2, 50), random.randint(500, 3000), random.randint(3000, 6000)]
    chosen = [_some(random, UNIVERSE, size) for size in sizes]
    chosen.append(np.delete(chosen[-1], random.randrange(len(chosen[-1]))))
    if universe > UNIVERSE:
        chosen.append(np.arange(universe))
    found = [DataSet(f"ledgers/{DataSet('', images).digest}.jsonl", images) for images in chosen]
    return [*found, DataSet("elsewhere/mine.jsonl", chosen[2])]


def _some(random: Random, universe: int, size: int) -> np.ndarray:
    """In a row, or here and there."""
    if random.random() < 0.5:
        first = random.randrange(universe - size + 1)
        return np.arange(first, first + size)
    return np.array(sorted(random.sample(range(universe), size)))
