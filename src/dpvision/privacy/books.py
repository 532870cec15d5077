"""Find what counts for the images of a run, in all ledgers of a machine, by what the index knows of them."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dpvision.privacy.events import Event, merge_events
from dpvision.privacy.ledger import Ledger, default_ledger_path
from dpvision.privacy.standing import Limit, Standing


@dataclass(frozen=True)
class Cell:
    """Images that exactly the same runs have touched.

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
    database: sqlite3.Connection, of_all: Sequence[Ledger], cells: Sequence[Cell]
) -> list[Standing]:
    """Say what counts for the images of each cell, and which limits hold for them.

    Args:
        database: the index.
        of_all: the ledgers whose runs are on all the images.
        cells: the images.

    Returns:
        One for all images on which the same was spent and for which the same limits hold.
    """
    books = _Books(database)
    counted_of_all = {run: events for ledger in of_all for run, events in ledger.counted().items()}
    images: Counter[Standing] = Counter()
    for cell in cells:
        elsewhere = [books.counted(run) for run in cell.runs - counted_of_all.keys()]
        events = merge_events(one for events in [*counted_of_all.values(), *elsewhere] for one in events)
        limits = [
            Limit(ledger.limit, ledger.path, ledger in of_all)
            for ledger in [*of_all, *books.of(cell, of_all)]
            if ledger.limit is not None
        ]
        images[Standing(0, events, tuple(limits), sum(map(bool, elsewhere)))] += cell.size
    return [replace(one, images=count) for one, count in images.items()]


class _Books:
    """The ledgers of the runs in the index, each of them read once."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._read: dict[Path, tuple[Ledger, dict[str, tuple[Event, ...]]] | None] = {}

    def of(self, cell: Cell, others_than: Sequence[Ledger]) -> list[Ledger]:
        """Return the ledgers of a cell's runs that are still there, without these."""
        paths = {_ledger_of(self._database, run) for run in cell.runs}
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
