"""What the index and the ledgers say, read without the code that is checked, and what is wrong with it.

The files are read from a copy: a journal that a killed process has left is for the next process to roll back.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from checks.indexing.jobs import Job, digest_of, epsilon_of


@dataclass
class Opened:
    """A run as a ledger has it: the units that it reserved and recorded."""

    ledger: str
    planned: int
    spent: int = 0
    is_open: bool = True

    @property
    def counted(self) -> int:
        return self.planned if self.is_open else self.spent


class Books:
    """All ledgers below a home: the runs, how many lines began each, and the limits."""

    def __init__(self, home: Path) -> None:
        self.runs: dict[str, Opened] = {}
        self.begun: Counter[str] = Counter()
        self.limits: dict[str, float] = {}
        for path in sorted(home.rglob("*.jsonl")):
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            for line in whole.splitlines():
                self._take_in(str(path.relative_to(home)), json.loads(line))

    def _take_in(self, ledger: str, entry: dict[str, Any]) -> None:
        match entry["kind"]:
            case "limit":
                self.limits[ledger] = entry["epsilon"]
            case "open":
                self.begun[entry["run"]] += 1
                self.runs[entry["run"]] = Opened(ledger, sum(event["count"] for event in entry["planned"]))
            case "spend":
                self.runs[entry["run"]].spent += entry["event"]["count"]
            case "close":
                self.runs[entry["run"]].is_open = False


class Tables:
    """The tables of the index; empty ones, where there is none."""

    def __init__(self, home: Path) -> None:
        self.images: list[tuple[bytes, int]] = []
        self.cells: dict[int, int] = {}
        self.members: dict[int, set[str]] = defaultdict(set)
        self.runs: dict[str, tuple[int, bool]] = {}
        self.damage = ""
        folder = home / "images"
        self.has_journal = (folder / "index.sqlite-journal").exists()
        if not (folder / "index.sqlite").exists():
            return
        self.key = (folder / "key").read_bytes()
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            with closing(sqlite3.connect(Path(copy) / "index.sqlite")) as database:
                self._read(database)

    def _read(self, database: sqlite3.Connection) -> None:
        found = [line for (line,) in database.execute("PRAGMA integrity_check")]
        self.damage = "" if found == ["ok"] else "; ".join(found)
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"images", "cells", "members", "runs"} <= tables:  # killed before it had made them
            return
        self.images = database.execute("SELECT identity, cell FROM images").fetchall()
        self.cells = dict(database.execute("SELECT cell, size FROM cells").fetchall())
        for cell, run in database.execute("SELECT cell, run FROM members"):
            self.members[cell].add(run)
        for run, events, opened in database.execute("SELECT run, events, opened FROM runs"):
            self.runs[run] = (sum(event["count"] for event in json.loads(events)), bool(opened))


class State:
    """Both, and what is wrong with them."""

    def __init__(self, home: Path, universe: int) -> None:
        self.home, self.universe = home, universe
        self.books, self.tables = Books(home), Tables(home)

    @cached_property
    def _cell_of(self) -> np.ndarray:
        """The cell of each image by number, or -1."""
        cells = np.full(self.universe, -1)
        if self.tables.images:
            numbers = numbers_of(self.tables.key, self.universe)
            for identity, cell in self.tables.images:
                cells[numbers[identity]] = cell
        return cells

    def images_of(self, name: str) -> np.ndarray:
        """For each image, whether the index has it as one of this run."""
        cells = [cell for cell, runs in self.tables.members.items() if name in runs]
        return np.isin(self._cell_of, cells)

    def counted(self, jobs: Sequence[Job]) -> np.ndarray:
        """For each image, the units that the ledgers hold against it."""
        total = np.zeros(self.universe, dtype=np.int64)
        for job in jobs:
            if job.kind == "run" and job.name in self.books.runs:
                total[job.data.images] += self.books.runs[job.name].counted
        return total

    def faults(self, jobs: Sequence[Job]) -> list[str]:
        """What must not be, whatever befell these jobs, which are all that there were."""
        found = [*self._faults_of_cells(), *self._faults_of_limits(jobs)]
        names = {job.name_in(self.home): job for job in jobs}
        if strangers := self.tables.runs.keys() - names.keys():
            found.append(f"the index has runs that nobody began: {sorted(strangers)}")
        for name, job in names.items():
            found += [
                f"{name}: {fault}" for fault in (*self._forgotten(name, job), *self._told_otherwise(job))
            ]
        return found

    def _faults_of_cells(self) -> Iterator[str]:
        tables = self.tables
        if tables.damage:
            yield f"SQLite finds damage: {tables.damage}"
        if len({identity for identity, _ in tables.images}) != len(tables.images):
            yield "an image is in the index twice"
        held = Counter(cell for _, cell in tables.images)
        for cell in held.keys() | tables.cells.keys() | tables.members.keys():
            if not held[cell] == tables.cells.get(cell) > 0:
                yield f"cell {cell} has {held[cell]} images and says {tables.cells.get(cell)}"
            if not tables.members[cell]:
                yield f"cell {cell} is of no run"
        of_runs = Counter(frozenset(runs) for runs in tables.members.values())
        for runs, count in of_runs.items():
            if count > 1:
                yield f"{count} cells are of the same runs {sorted(runs)}"
            if not runs <= tables.runs.keys():
                yield f"images are of runs that the index does not know: {sorted(runs - tables.runs.keys())}"

    def _forgotten(self, name: str, job: Job) -> Iterator[str]:
        """Images that the index does not hold against a run that it knows or a ledger has, or against a limit
        or a use that a process was told is there; and others, which it does.
        """
        expected = np.zeros(self.universe, dtype=bool)
        expected[job.data.images] = True
        if name in self.tables.runs:
            entered = self.images_of(name)
            missing, others = int((expected & ~entered).sum()), int((entered & ~expected).sum())
            if missing or others:
                yield f"{missing} of its images are forgotten, and it is on {others} others"
        elif name in self.books.runs or job.said:
            yield f"all {len(job.data.images)} images are forgotten"

    def _told_otherwise(self, job: Job) -> Iterator[str]:
        """A ledger, or what the index notes of a run, that does not agree with what its process was told."""
        run, said = self.books.runs.get(job.name), job.said
        if run is None:
            if said["open"]:
                yield "it was open, and no ledger has it"
            return
        events, opened = self.tables.runs.get(job.name, (0, False))
        if self.books.begun[job.name] != 1:
            yield f"the ledgers begin it {self.books.begun[job.name]} times"
        if run.planned != job.planned:
            yield f"its ledger has a plan of {run.planned} units, not {job.planned}"
        if not said["spent"] <= run.spent <= min(said["spent"] + job.kills, job.planned):
            yield f"its ledger has {run.spent} releases of the {said['spent']} that it made"
        if (said["open"] or run.spent) and not opened:
            yield "it was open, and the index takes it for one that never was"
        if events < run.spent or (said["closed"] and (run.is_open or events != run.spent)):
            yield f"the index notes {events} units, and it spent {run.spent}"

    def _faults_of_limits(self, jobs: Sequence[Job]) -> Iterator[str]:
        total = self.counted(jobs)
        for ledger, limit in self.books.limits.items():
            worst = int(total[self._limited(ledger, jobs)].max(initial=0))
            if worst and epsilon_of(worst) > limit:
                found = f"{worst} units, epsilon {epsilon_of(worst):.4g} of {limit:.4g}"
                yield f"an image is at {found} ({ledger})"

    def _limited(self, ledger: str, jobs: Sequence[Job]) -> np.ndarray:
        """For each image, whether this ledger's limit holds for it."""
        limited = np.zeros(self.universe, dtype=bool)
        for job in jobs:
            if job.data.ledger == ledger and (job.said["covered"] or job.name in self.books.runs):
                limited[job.data.images] = True
        return limited

    def has_no_room(self, job: Job, jobs: Sequence[Job]) -> bool:
        """Whether a limit that may hold for one of a run's images is a reason to refuse it."""
        total = self.counted(jobs)
        for ledger, limit in self.books.limits.items():
            may_hold = np.zeros(self.universe, dtype=bool)
            for other in jobs:
                if other.data.ledger == ledger:
                    may_hold[other.data.images] = True
            images = job.data.images[may_hold[job.data.images]]
            if len(images) and epsilon_of(int(total[images].max()) + job.planned) > limit:
                return True
        return False

    def place_of(self, job: Job, had_journal: bool) -> str:
        """How far a job that was killed has come, as its files show. A journal that an earlier one has left
        is not its own.
        """
        run, (_, opened) = self.books.runs.get(job.name), self.tables.runs.get(job.name, (0, False))
        if self.tables.has_journal and not had_journal:
            return "within a transaction, with a journal to roll back"
        if job.name_in(self.home) not in self.tables.runs:
            return "before it was in the index"
        if job.kind != "run":
            return "after it was in the index"
        if run is None:
            return "in the index, not in its ledger"
        if not opened:
            return "open in its ledger, not yet noted so"
        return "closed in its ledger" if not run.is_open else "open"


_NUMBERS: dict[bytes, dict[bytes, int]] = {}


def numbers_of(key: bytes, universe: int) -> dict[bytes, int]:
    """The numbers of images by their identities under a key."""
    if key not in _NUMBERS:
        _NUMBERS.clear()
        _NUMBERS[key] = {
            hashlib.blake2b(digest_of(number), key=key, digest_size=16).digest(): number
            for number in range(universe)
        }
    return _NUMBERS[key]
