"""What the index of images knows of units: whose images they are, and which runs have touched them.

A run that protects units enters the identity of each unit beside those of its images, in cells of its own
kind, and which image is whose. So what any run has spent on a unit's images counts for the unit too, if only
one run has ever said whose they are: see `dpvision.privacy.roles`.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter

from dpvision.privacy.books import Touched
from dpvision.privacy.names import Names, in_order
from dpvision.privacy.roles import PROTECTED, Role

TABLES = """
CREATE TABLE IF NOT EXISTS {place}belongs (image BLOB, unit BLOB, PRIMARY KEY (image, unit)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {place}images_of ON belongs (unit);
CREATE TABLE IF NOT EXISTS {place}unit_runs (run TEXT PRIMARY KEY) WITHOUT ROWID;
"""
BATCH = """
CREATE TEMP TABLE named (identity BLOB PRIMARY KEY, fingerprint BLOB) WITHOUT ROWID;
CREATE TEMP TABLE whose (image BLOB, unit BLOB, PRIMARY KEY (image, unit)) WITHOUT ROWID;
"""
_UNITS = "SELECT identity FROM named UNION SELECT unit FROM belongs JOIN batch ON image = identity"
"""The units that a run on the batch touches: those it names, and those that its images are known to be of."""


def fill_units(database: sqlite3.Connection, identities: Names, units: Names | None) -> None:
    """Make these the units, ``named``, of the images that are the batch, and note ``whose`` each is."""
    database.execute("DELETE FROM named")
    database.execute("DELETE FROM whose")
    if units is not None:
        database.executemany("INSERT OR IGNORE INTO whose VALUES (?, ?)", in_order(identities, units))
        database.execute("INSERT INTO named SELECT DISTINCT unit, NULL FROM whose")


def name_units_of(database: sqlite3.Connection, ledgers: Sequence[str]) -> None:
    """Make the units that the runs of these ledgers protect the ``named`` ones."""
    database.execute(
        "INSERT INTO named SELECT DISTINCT identity, NULL FROM images JOIN members USING (cell) "
        "JOIN runs USING (run) WHERE identity IN (SELECT unit FROM belongs) "
        f"AND ledger IN ({','.join('?' * len(ledgers))})",
        ledgers,
    )


def remember(database: sqlite3.Connection, run: str) -> None:
    """Enter whose images the batch is, and that the run protects units."""
    database.execute("INSERT OR IGNORE INTO belongs SELECT image, unit FROM whose")
    database.execute("INSERT OR IGNORE INTO unit_runs SELECT ? WHERE EXISTS (SELECT 1 FROM named)", (run,))


def runs_on_units(database: sqlite3.Connection) -> frozenset[str]:
    """Return the runs that protect units."""
    return frozenset(run for (run,) in database.execute("SELECT run FROM unit_runs"))


def touched_units(database: sqlite3.Connection) -> list[Touched]:
    """Say of the units that a run on the batch touches what each run has been to them, and what it would be.

    The images of a unit are all that any run has said are its. A run that names the unit protects it; any
    other touches it by as many of these as it has.
    """
    members, on_units = _members_of_all(database), runs_on_units(database)
    rows = database.execute(
        "WITH pairs AS (SELECT unit, image FROM whose UNION "
        f"SELECT unit, image FROM belongs WHERE unit IN ({_UNITS})) "
        "SELECT unit, unit IN (SELECT identity FROM named), "
        "(SELECT cell FROM images WHERE identity = unit), "
        "images.cell, COUNT(*), SUM(image IN (SELECT identity FROM batch)) "
        "FROM pairs LEFT JOIN images ON images.identity = pairs.image "
        "GROUP BY unit, images.cell ORDER BY unit"
    )
    kinds: Counter[tuple[bool, int | None, tuple[tuple[int | None, int], ...], int]] = Counter()
    for (_, is_named, own_cell), of_unit in itertools.groupby(rows, key=itemgetter(0, 1, 2)):
        found = list(of_unit)
        cells = tuple(sorted(((cell, count) for *_, cell, count, _ in found), key=repr))
        kinds[bool(is_named), own_cell, cells, sum(present for *_, present in found)] += 1
    names_any = any(is_named for is_named, *_ in kinds)
    touched: Counter[Touched] = Counter()
    for (is_named, own_cell, cells, present), number in kinds.items():
        naming = members.get(own_cell, frozenset())
        sizes: Counter[str] = Counter()
        for cell, count in cells:
            sizes.update(dict.fromkeys(members.get(cell, frozenset()) - naming, count))
        roles = {run: Role(size, mixed=run in on_units) for run, size in sizes.items()}
        roles |= dict.fromkeys(naming, PROTECTED)
        own = PROTECTED if is_named else Role(present, mixed=names_any)
        touched[Touched(0, frozenset(roles.items()), "unit", own)] += number
    return [one.of(number) for one, number in touched.items()]


def _members_of_all(database: sqlite3.Connection) -> dict[int | None, frozenset[str]]:
    """Return the runs of every cell; there are few."""
    rows = database.execute("SELECT cell, run FROM members ORDER BY cell")
    return {
        cell: frozenset(run for _, run in of_cell) for cell, of_cell in itertools.groupby(rows, itemgetter(0))
    }
