"""Kill processes that use the index of images, let several use it at once, and check that it forgets nothing.

    python -m checks.index --kills 100 --races 20 --seed 1

Processes open runs on overlapping data sets of one image to 100 000, under several ledgers, with limits of
their owners; they record releases and close the runs, set limits that cover images, and note images as
public ones. Kills are SIGKILLs at moments drawn from all those of a job (`checks.indexing.moments`: around
operations on files, before each statement of SQL and while SQLite works on it) or, one in five, at any
time. A job that was killed is tried again, at once or when others have been at work. After every process,
the files are read without the code that is checked (`checks.indexing.reading`), and compared with what the
processes were given to do and said that they had done:

* each image of a run that a ledger has is held against it in the index, and no other image is;
* each image is there once, in a cell that has as many images as it says, and no two cells are of the same
  runs;
* each run is in one ledger, once, with the releases that were made, and counts where it was open;
* no image costs more than any limit that holds for it, and no run is refused for which there is room;
* the next process can go on.

In a race, two to eight processes open runs at once that share an image whose limit has room for some of
them: in the end, those that were killed having been tried again, just so many are admitted, and the others
end in a sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process with more threads cannot be forked safely

import numpy as np

from checks.indexing.jobs import DataSet, Job, prepare_epsilons
from checks.indexing.moments import Profile, Profiler, strike_here
from checks.indexing.world import LARGE, UNIVERSE, World, data_sets, nothing

KILLS_OF_A_WORLD = 20
SHARE_TIMED = 0.2
SHARE_LARGE = 0.2
"""Of the worlds: those in which a data set has 100 000 images."""
CASES = ("first use", "room for some", "kills among them")


@dataclass
class Killed:
    """Where the kills struck, and how far the job had come."""

    struck: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    attempts: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        found = {"struck": dict(self.struck.most_common()), "left": dict(self.left.most_common())}
        return {**vars(self), **found, "kills": self.struck.total()}


@dataclass
class Row:
    """What came of one case of a race."""

    case: str
    rounds: int = 0
    processes: int = 0
    admitted: int = 0
    refused: int = 0
    killed: int = 0
    faults: list[str] = field(default_factory=list)


class Check:
    """Kills and races in a folder, from one seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.names = 0
        self.killed = Killed()
        self.rows = [Row(case) for case in CASES]
        self.profiles = self._profiles()

    @property
    def faults(self) -> list[str]:
        return self.killed.faults + [f"{row.case}: {fault}" for row in self.rows for fault in row.faults]

    # Kills ------------------------------------------------------------------------------------------------

    def kill(self, kills: int) -> None:
        """Until so many processes were killed."""
        while self.killed.struck.total() < kills:
            world = World(self.folder / "world", LARGE if self.random.random() < SHARE_LARGE else UNIVERSE)
            sets = data_sets(self.random, world.universe)
            enough = min(kills, self.killed.struck.total() + KILLS_OF_A_WORLD)
            while self.killed.struck.total() < enough and not world.faults:
                self._attempt(world, self._next_job(world, sets))
            world.finish()
            self.killed.jobs += len(world.jobs)
            self.killed.refused += world.refused
            self.killed.faults += world.faults

    def _next_job(self, world: World, sets: list[DataSet]) -> Job:
        if world.pending and self.random.random() < 0.5:
            return self.random.choice(world.pending)
        data = self.random.choice(sets)
        kind = self.random.choices(["run", "limit", "public"], [8, 2, 1])[0]
        limits = [job for job in world.jobs if (job.kind, job.data) == ("limit", data)]
        if kind == "limit" and limits:
            kind = "run"
        planned = self.random.randint(1, 3)
        return self._job(kind, data, planned, self.random.randint(0, planned), self.random.random() < 0.6)

    def _job(self, kind: Any, data: DataSet, planned: int, spends: int = 0, closes: bool = False) -> Job:
        self.names += 1
        return Job(kind, f"{kind}-{self.names}", data, planned, spends, closes)

    def _attempt(self, world: World, job: Job) -> None:
        world.make_room(job, self.random.randint(1, 4))
        place, had_journal = world.folder / "place", (world.home / "images" / "index.sqlite-journal").exists()
        place.unlink(missing_ok=True)
        profile = self.profiles[job.kind if (world.home / "images").exists() else "first"]
        if self.random.random() < SHARE_TIMED:
            child = world.start(job)
            sleep(self.random.uniform(0, profile.total * max(1.0, len(job.data.images) / UNIVERSE)))
            os.kill(child, signal.SIGKILL)
            place.write_text("at any time")
        else:
            child = world.start(job, partial(strike_here, world.home, profile.draw(self.random), place))
        ended = world.wait(child, job)
        state = world.state()
        world.look(state)
        world.take(job, ended, state)
        self.killed.attempts += 1
        if ended.killed:
            self.killed.struck[place.read_text()] += 1
            self.killed.left[state.place_of(job, had_journal)] += 1
        elif job.kind == "run" and not job.closes and job.said["open"]:
            job.spends, job.closes = job.planned, True  # it is taken up again, another day
            world.pending.append(job)

    def _profiles(self) -> dict[str, Profile]:
        """The moments of jobs of each kind, and of the first one of all."""
        world, found = World(self.folder / "world"), {}
        one, other = (DataSet(f"ledgers/{n}.jsonl", np.arange(n, n + 3000)) for n in (0, 1500))
        for name, kind, data in (
            ("first", "run", one),
            ("run", "run", other),
            ("limit", "limit", DataSet("ledgers/2.jsonl", np.arange(1000))),
            ("public", "public", DataSet("", np.arange(100, 2000))),
        ):
            job, path = self._job(kind, data, 1, 1, True), self.folder / "profile"
            found[name] = self._profile(world, job, path)
        world.look(world.state())
        self.killed.faults += world.faults
        return found

    @staticmethod
    def _profile(world: World, job: Job, path: Path) -> Profile:
        def befalls() -> None:
            profiler, go = Profiler(world.home), job.go

            def watched(*args: Any) -> int:
                code = go(*args)
                profiler.write(path)
                return code

            job.go = watched  # type: ignore[method-assign]

        ended = world.wait(world.start(job, befalls), job)
        assert ended.code == 0, ended.output
        return Profile.read(path)

    # Races ------------------------------------------------------------------------------------------------

    def race(self, rounds: int) -> None:
        """So many rounds of each case."""
        for _ in range(rounds):
            for row in self.rows:
                self._race(row)

    def _race(self, row: Row) -> None:
        world = World(self.folder / "world")
        count, units = self.random.randint(2, 8), self.random.randint(1, 2)
        room = count
        if row.case != "first use":
            room = self.random.randint(1, count - 1)
            owner = DataSet("ledgers/owner.jsonl", np.arange(self.random.choice([1, 50, 2000])))
            limit = self._job("limit", owner, room * units)
            world.take(limit, world.wait(world.start(limit), limit), world.state())
        racers = [self._job("run", self._with_image_zero(n), units, units) for n in range(count)]
        others = [
            self._job("run", DataSet(f"other-{n}.jsonl", np.arange(2000, 5000)), 1, 1, True) for n in range(2)
        ]
        self._at_once(world, [*racers, *others], with_kills=row.case == "kills among them")
        row.killed += sum(job.kills for job in world.jobs)
        world.finish()
        admitted = sum(job.said["open"] > 0 for job in racers)
        if admitted != room and not world.faults:
            world.faults.append(f"{admitted} were admitted of {count}, with room for {room}")
        row.rounds, row.processes = row.rounds + 1, row.processes + count
        row.admitted, row.refused = row.admitted + admitted, row.refused + world.refused
        row.faults += world.faults

    def _with_image_zero(self, number: int) -> DataSet:
        """A data set with the image that all racers share, some of those of the owner, and some more."""
        size = self.random.choice([1, 100, 3000])
        images = np.array([0, *self.random.sample(range(1, UNIVERSE), size)])
        return DataSet(f"ledgers/{number}.jsonl", np.unique(images))

    def _at_once(self, world: World, jobs: list[Job], with_kills: bool) -> None:
        """Begin all, hold them until all are there, and wait for their ends."""
        held, gate = os.pipe()

        def befalls(then: Callable[[], None]) -> None:
            then()
            os.close(gate)
            os.read(held, 1)

        children = []
        for number, job in enumerate(jobs):
            then: Callable[[], None] = nothing
            if with_kills and self.random.random() < 0.6:
                profile, where = self.profiles["run"], world.folder / f"place {number}"
                then = partial(strike_here, world.home, profile.draw(self.random), where)
            children.append(world.start(job, partial(befalls, then)))
        os.close(gate)
        all_ended = [world.wait(child, job) for child, job in zip(children, jobs, strict=True)]
        os.close(held)
        state = world.state()
        for job, ended in zip(jobs, all_ended, strict=True):
            world.take(job, ended, state)
        world.look(state)


def table(check: Check) -> str:
    """Where the kills struck, what they left, the cases of the races, and what was wrong."""
    killed = check.killed
    lines = [
        f"{killed.struck.total()} kills in {killed.attempts} attempts at {killed.jobs} jobs, "
        f"{killed.refused} refused, {len(killed.faults)} faults",
        "struck: " + ", ".join(f"{count} {place}" for place, count in killed.struck.most_common()),
        "and left the job: " + ", ".join(f"{count} {place}" for place, count in killed.left.most_common()),
        f"{'race':17} {'rounds':>7} {'processes':>10} {'admitted':>9} {'refused':>8} {'killed':>7} faults",
    ]
    for row in check.rows:
        lines.append(
            f"{row.case:17} {row.rounds:7} {row.processes:10} {row.admitted:9} {row.refused:8} "
            f"{row.killed:7} {len(row.faults):6}"
        )
    return "\n".join([*lines, *(f"FAULT {fault}" for fault in check.faults)])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--races", type=int, default=10, help="rounds of each case")
    parser.add_argument("--seed", type=int, default=1, help="of the data sets, the jobs and the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    options = parser.parse_args()
    started = monotonic()
    prepare_epsilons()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(Path(folder), options.seed)
        check.kill(options.kills)
        check.race(options.races)
    print(table(check))
    seconds = monotonic() - started
    print(f"in {seconds:.0f} s")
    if options.json:
        races = [vars(row) for row in check.rows]
        print(json.dumps({"seconds": seconds, "kills": check.killed.to_json(), "races": races}))
    return 1 if check.faults else 0


if __name__ == "__main__":
    sys.exit(main())
