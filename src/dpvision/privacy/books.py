"""Find what counts for the images of a run, in all ledgers of a machine, by what the index knows of them."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dpvision.privacy.events import Event, merge_events
from dpvision.privacy.facts import Unit
from dpvision.privacy.ledger import Ledger, default_ledger_path
from dpvision.privacy.roles import PROTECTED, Role
from dpvision.privacy.standing import Limit, Standing


@dataclass(frozen=True)
class Touched:
    """Images, or units, to which each run has been the same.

    Attributes:
        size: how many there are.
        roles: what each of them is to every run that has touched it, by the run's id.
        unit: whether they are units.
        own: what each of them is to a run on the data set.
    """

    size: int
    roles: frozenset[tuple[str, Role]]
    unit: Unit = "image"
    own: Role = PROTECTED

    def of(self, size: int) -> Touched:
        """Return so many like these."""
        return replace(self, size=size)


@dataclass(frozen=True)
class Cell:
    """Images, or units, that exactly the same runs have touched.

    Attributes:
        size: how many images of those that were asked for.
        runs: the ids of the runs.
    """

    size: int
    runs: frozenset[str]


def ledgers_of_all(own: Ledger) -> list[Ledger]:
    """Return the ledgers whose runs, also those from before there was an index, are on all images of a run:
    its own and, where that is another, the data set's own one.
    """
    usual = default_ledger_path(own.digest)
    is_elsewhere = usual.exists() and usual.absolute() != own.path.absolute()
    return [own, Ledger(usual)] if is_elsewhere else [own]


def standings(
    database: sqlite3.Connection, of_all: Sequence[Ledger], touched: Sequence[Touched], unit: Unit
) -> list[Standing]:
    """Say what counts for images and units, and which limits hold for them.

    Args:
        database: the index.
        of_all: the ledgers whose runs are on the whole data set.
        touched: the images and units.
        unit: what a run on the data set protects.

    Returns:
        One for all on which the same was spent and for which the same limits hold. Of what the run does not
        protect, only those for which one does.
    """
    books = _Books(database)
    counted_of_all = {run: events for ledger in of_all for run, events in ledger.counted().items()}
    images: Counter[Standing] = Counter()
    for one in touched:
        elsewhere = [(role, books.counted(run)) for run, role in one.roles if run not in counted_of_all]
        costs = [one.own.cost(events) for events in counted_of_all.values()]
        costs += [role.cost(events) for role, events in elsewhere]
        own = list(of_all) if one.own.is_own else []
        others = books.of([run for run, role in one.roles if role.is_own], of_all)
        limits = [
            Limit(ledger.limit, ledger.path, ledger in of_all)
            for ledger in [*own, *others]
            if ledger.limit is not None and ledger.unit == one.unit
        ]
        if limits or one.unit == unit:
            merged = merge_events(event for events in costs for event in events)
            count = sum(bool(events) for _, events in elsewhere)
            images[Standing(0, merged, tuple(limits), count, one.unit, one.own)] += one.size
    return [replace(one, images=count) for one, count in images.items()]


class _Books:
    """The ledgers of the runs in the index, each of them read once."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._read: dict[Path, tuple[Ledger, dict[str, tuple[Event, ...]]] | None] = {}

    def of(self, runs: Iterable[str], others_than: Sequence[Ledger]) -> list[Ledger]:
        """Return the ledgers of runs that are still there, without these."""
        paths = {_ledger_of(self._database, run) for run in runs}
        paths -= {ledger.path.absolute() for ledger in others_than}
        found = (self._at(path) for path in sorted(paths))
        return [ledger for ledger, _ in filter(None, found)]

    def counted(self, run: str) -> tuple[Event, ...]:
        """Return a run's events as its ledger has them. Where that is gone, or another is in its place: as
        they were noted in the index, unless the run was never open.
        """
        found = self._at(_ledger_of(self._database, run))
        if found is not None and run in found[1]:
            return found[1][run]
        query = "SELECT events, opened FROM runs WHERE run = ?"
        text, opened = self._database.execute(query, (run,)).fetchone()
        if found is not None and not opened:  # its process was killed before it was open
            return ()
        return tuple(Event.from_json(fields) for fields in json.loads(text))

    def _at(self, path: Path) -> tuple[Ledger, dict[str, tuple[Event, ...]]] | None:
        if path not in self._read:
            ledger = Ledger(path) if path.exists() else None
            self._read[path] = (ledger, ledger.counted()) if ledger else None
        return self._read[path]


def stored(database: sqlite3.Connection, ledger: Path) -> str:
    """Return a ledger's path as the index keeps it: from the home on, where it is there, for that may be
    moved.
    """
    ledger, home = ledger.absolute(), _home(database)
    return str(ledger.relative_to(home) if ledger.is_relative_to(home) else ledger)


def _ledger_of(database: sqlite3.Connection, run: str) -> Path:
    (ledger,) = database.execute("SELECT ledger FROM runs WHERE run = ?", (run,)).fetchone()
    return (_home(database) / ledger).absolute()


def _home(database: sqlite3.Connection) -> Path:
    """Return the folder that holds the index's folder and, as a rule, the one of the ledgers."""
    (_, _, file) = database.execute("PRAGMA database_list").fetchone()
    return Path(file).parent.parent
