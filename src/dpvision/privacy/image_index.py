"""Which runs may have learned from which images, over all data sets and ledgers of a machine.

A ledger belongs to one data set, known by a digest of the whole. Its images come again as other data sets:
renamed, in another order, with other labels, without one of them, under a ledger elsewhere. So every run is
also entered here with the identity of each image, and before it may begin, everything that other runs have
spent on any of its images is composed with what it plans: the limit of every owner holds for every image.

Identities are digests under a key, which lies beside the index and never leaves the machine: whoever has the
index alone cannot ask it for an image. Fingerprints, by which changed copies are warned of, are under it too;
what they tell without it is in ``docs/guarantee/ledger.md``.

A run that protects units, all images of a patient, say, is entered with the identity of each unit too, and
with which image is whose: the limits of owners hold for images or for units, see `dpvision.privacy.roles`.

The images, or units, that exactly the same runs have touched make a *cell*. A new run splits the cells that
it touches in part. There are few of them, so that what is kept of an image is its identity and the number of
its cell.

Guarantee: a run is in the index, durably, before it is open in its ledger, hence before it releases anything;
no two runs are admitted at a time. A process that is killed leaves a run that the index knows and the ledger
does not: it has spent nothing, and counts for nothing. What the index says of a run's events is only used
where its ledger is gone, or another is in its place: it is then all that the run had reserved, or had spent
when it was closed. This holds while nobody takes the index away. ``tests/privacy/test_image_index.py`` and
``python -m checks.index`` kill and race processes over it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpvision.privacy import known_units
from dpvision.privacy.books import Cell, Touched, ledgers_of_all, standings, stored
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event, merge_events, written
from dpvision.privacy.facts import Unit
from dpvision.privacy.fingerprint import FINGERPRINT_BYTES, Fingerprints, fingerprints_of
from dpvision.privacy.ledger import Ledger, default_ledger_path, sync_folder
from dpvision.privacy.names import AT_A_TIME, Names, in_order, names_of, rows_of
from dpvision.privacy.owner_only import for_the_owner
from dpvision.privacy.roles import Role
from dpvision.privacy.standing import Standing, check_first, check_limits

KEY_BYTES = 32
DIGEST_BYTES = 32
IDENTITY_BYTES = 16
"""Two of a million images share an identity with a probability of 2·10⁻²⁷."""

_PUBLIC, _LIMIT = "public ", "limit "
"""The beginnings of what stands in the place of a run where images were taken for public ones, and where a
limit was set for them. No run's name begins so.
"""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS images (
    identity BLOB PRIMARY KEY, cell INTEGER NOT NULL, fingerprint BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cells (cell INTEGER PRIMARY KEY, size INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS members (cell INTEGER, run TEXT, PRIMARY KEY (cell, run)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, ledger TEXT NOT NULL, events TEXT NOT NULL, opened INTEGER NOT NULL DEFAULT 0
);
{known_units.TABLES.format(place="")}
"""
_BATCH = f"""
CREATE TEMP TABLE batch (identity BLOB PRIMARY KEY, fingerprint BLOB) WITHOUT ROWID;
{known_units.BATCH}
"""


def default_index_folder() -> Path:
    """Return the folder of the index that all runs on this machine share: beside that of the ledgers."""
    return default_ledger_path("").parent.parent / "images"


@dataclass(frozen=True, repr=False)
class IndexedImages:
    """The images of one run, as the index knows them.

    Attributes:
        index: the index.
        identities: of the images, [N].
        fingerprints: of the images, where they are known.
        units: the identity of each image's unit, [N]; None where images are protected.
    """

    index: ImageIndex
    identities: Names
    fingerprints: Fingerprints | None = None
    units: Names | None = None


class ImageIndex:
    """The index in a folder, made when it is first used.

    Safe to use from several processes at once. Every method takes the lock, but for those that say so.

    Raises:
        InputError: from any method, when the folder cannot be read or written, or the file is no index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def exists(self) -> bool:
        """Whether the index was made already."""
        path = self.folder / "index.sqlite"
        with _usable(self.folder):
            return path.exists() and path.stat().st_size > 0

    def identities(self, digests: Iterable[bytes]) -> Names:
        """Return the identities, under this index's key, of images with these digests. Takes no lock."""
        return self._keyed(digests, b"")

    def identities_of_units(self, digests: Iterable[bytes]) -> Names:
        """Return the same of units, which are never those of images. Takes no lock."""
        return self._keyed(digests, b"unit")

    def _keyed(self, digests: Iterable[bytes], person: bytes) -> Names:
        with _usable(self.folder):
            key = self._key()
        keyed = partial(hashlib.blake2b, key=key, digest_size=IDENTITY_BYTES, person=person)
        return names_of((keyed(one).digest() for one in digests), IDENTITY_BYTES)

    def fingerprints(self, sketches: NDArray[np.float16]) -> Fingerprints:
        """Return the fingerprints, under this index's key, of images with these sketches. Takes no lock."""
        with _usable(self.folder):
            return fingerprints_of(sketches, self._key())

    @contextlib.contextmanager
    def admitting(
        self, run: str, ledger: Ledger, planned: Sequence[Event], images: IndexedImages, first: bool = False
    ) -> Iterator[None]:
        """Enter a run on these images, unless it is there; while the block opens it in its ledger, no other
        is admitted. One that its ledger has already, also from before there was an index, is not checked.

        Args:
            run, ledger, planned, images: its id, its ledger, what it means to release, and its images.
            first: refuse it where other runs have spent anything on one of the images or units, or may still.

        Raises:
            BudgetExceeded: that is so, or with what others have spent on one of the images or units, or may
                still, the plan exceeds the limit of an owner. Nothing was written.
            InputError: a run of this id is in another ledger, and this would be taken for that one; or it has
                a name that stands for something else here.
        """
        if run.startswith((_PUBLIC, _LIMIT)):
            raise InputError(f"a run cannot be called {run!r}, which means something else; call it otherwise")
        with self._opened() as database:
            is_open, of_all = run in ledger.counted(), ledgers_of_all(ledger)
            place = _place_of(database, run)
            is_known = place is not None
            if is_known and not is_open and place != stored(database, ledger.path):
                raise InputError(
                    f"a run called {run!r} is in the ledger {place} already, and each run has a name of its "
                    "own; call this one otherwise"
                )
            if not (is_known and is_open):
                _fill_batch(database, images.identities, images.fingerprints, images.units)
                _take_over(database, of_all, besides=run)
            if not is_open:  # also of one that was killed before it was, for others may have its place by now
                found = _standings_of_batch(database, of_all)
                if first:
                    check_first(found)
                check_limits(found, planned)
            if not is_known:
                _enter_batch(database, run, ledger.path, planned)
            yield
            with database:
                database.execute("UPDATE runs SET opened = 1 WHERE run = ?", (run,))

    def cover(self, ledger: Ledger, images: IndexedImages) -> None:
        """Let a ledger's limit hold for these images or units, though no run has touched them yet."""
        with self._opened() as database:
            name = f"{_LIMIT}{ledger.path.absolute()}"
            if not _has(database, name):
                _fill_batch(database, images.identities, images.fingerprints, images.units)
                _take_over(database, ledgers_of_all(ledger))
                _enter_batch(database, name, ledger.path, ())

    def note_public(self, use: str, identities: Names, fingerprints: Fingerprints | None = None) -> None:
        """Remember that these images were taken for public ones, and for what: a name that a later run on
        them can ask for, see `public_uses`.
        """
        with self._opened() as database:
            if not _has(database, f"{_PUBLIC}{use}"):
                _fill_batch(database, identities, fingerprints)
                _enter_batch(database, f"{_PUBLIC}{use}", self.folder / "no ledger", ())

    def public_uses(self, identities: Names) -> set[str]:
        """Return for what any of these images was taken for a public one."""
        runs = {run for cell in self.cells(identities) for run in cell.runs}
        return {run.removeprefix(_PUBLIC) for run in runs if run.startswith(_PUBLIC)}

    def count_private(self, identities: Names) -> int:
        """Return how many of these images a run has learned from, or may, or has a limit that was set."""
        cells = self.cells(identities)
        return sum(cell.size for cell in cells if not all(run.startswith(_PUBLIC) for run in cell.runs))

    def private_besides(self, identities: Names) -> Fingerprints:
        """Return the fingerprints of the images that are private, see `count_private`, and none of these: in
        the order of their identities, hence as if shuffled.
        """
        with self._opened() as database:
            _fill_batch(database, identities)
            rows = database.execute(
                "SELECT fingerprint FROM images WHERE fingerprint IS NOT NULL AND cell IN "
                "(SELECT cell FROM members WHERE substr(run, 1, ?) <> ?) "
                "AND identity NOT IN (SELECT identity FROM batch) ORDER BY identity",
                (len(_PUBLIC), _PUBLIC),
            )
            some = iter(partial(rows.fetchmany, AT_A_TIME), [])
            joined = b"".join([b"".join(one for (one,) in found) for found in some])
        return np.frombuffer(joined, dtype=np.int8).reshape(-1, FINGERPRINT_BYTES)

    def settle(self, run: str, spent: Sequence[Event]) -> None:
        """Take note of what a run had spent when it was closed."""
        with self._opened() as database, database:
            database.execute("UPDATE runs SET events = ? WHERE run = ?", (_text(spent), run))

    def cells(self, identities: Names) -> list[Cell]:
        """Return the cells that the images are in; those that no run has touched are in none."""
        with self._opened() as database:
            _fill_batch(database, identities)
            return _touched(database)

    def count_of_other_kind(self, images: IndexedImages) -> int:
        """Return how many of these images were learned from, or may be, by runs that do not protect what a
        run on these does: units in place of images, or images in place of units.
        """
        with self._opened() as database:
            _fill_batch(database, images.identities)
            found = database.execute(
                "SELECT COUNT(*) FROM batch JOIN images USING (identity) WHERE EXISTS ("
                "SELECT 1 FROM members JOIN runs USING (run) WHERE members.cell = images.cell "
                "AND events <> '[]' AND (run IN (SELECT run FROM unit_runs)) <> ?)",
                (images.units is not None,),
            )
            return int(found.fetchone()[0])

    def standings(
        self,
        of_all: Sequence[Ledger],
        digests: Iterable[bytes] | None,
        units: Iterable[bytes] | None = None,
    ) -> list[Standing]:
        """Say what counts for images and units, and which limits hold for them: see `books.standings`. Reads
        the index that there is, if there is one, and makes none.

        Args:
            of_all: the ledgers whose runs are on the whole data set; see `ledgers_of_all`.
            digests: as for `identities`; None for what runs of these ledgers have touched and protect.
            units: the digest of each image's unit, [N]; None where images are protected.
        """
        path = self.folder / "index.sqlite"
        with _usable(self.folder), contextlib.ExitStack() as stack:
            if not self.exists:
                unit = of_all[0].unit if digests is None else "image" if units is None else "unit"
                if digests is None:
                    count = of_all[0].num_examples
                else:
                    count = len(np.unique(names_of(digests if units is None else units, DIGEST_BYTES)))
                empty = stack.enter_context(contextlib.closing(sqlite3.connect(":memory:")))
                return standings(empty, of_all, [Touched(count, frozenset(), unit)], unit)
            self._key()
            if (self.folder / "lock").exists():
                fcntl.flock(stack.enter_context(open(self.folder / "lock", "rb")), fcntl.LOCK_SH)
            uri = (
                f"{path.absolute().as_uri()}?mode=rw"  # a write that was cut off is undone before it is read
            )
            database = stack.enter_context(contextlib.closing(sqlite3.connect(uri, uri=True)))
            database.executescript(_BATCH)
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'unit_runs'").fetchone():
                database.executescript(known_units.TABLES.format(place="temp."))  # it knows of none
            if digests is None:
                return _standings_of(database, of_all)
            named = None if units is None else self.identities_of_units(units)
            _fill_batch(database, self.identities(digests), units=named)
            return _standings_of_batch(database, of_all)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with _usable(self.folder), contextlib.ExitStack() as stack:
            self._key()
            lock = stack.enter_context(open(self.folder / "lock", "ab", opener=for_the_owner))
            fcntl.flock(lock, fcntl.LOCK_EX)
            path = self.folder / "index.sqlite"
            with open(path, "ab", opener=for_the_owner):
                pass
            database = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
            # All tables at once: whoever reads an index finds all of them, or an empty file.
            database.executescript(f"PRAGMA synchronous = FULL; BEGIN; {_TABLES} COMMIT; {_BATCH}")
            _add_fingerprints(database)
            yield database

    def _key(self) -> bytes:
        """Return the key, drawn where there is none. Whoever comes second takes the first one's."""
        path = self.folder / "key"
        has_index = (self.folder / "index.sqlite").exists()  # asked first: whoever makes both makes it last
        if not path.exists():
            if has_index:  # which nothing can be found in without its own key
                raise InputError(f"{path} is missing; restore it from a copy")
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            mine = self.folder / f".key.{os.getpid()}"
            with open(mine, "wb", opener=for_the_owner) as file:
                file.write(os.urandom(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)
            mine.unlink()
            sync_folder(self.folder)
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise InputError(f"{path} is damaged; restore it from a copy")
        return key


def _has(database: sqlite3.Connection, run: str) -> bool:
    return _place_of(database, run) is not None


def _place_of(database: sqlite3.Connection, run: str) -> str | None:
    """Return where the ledger of a run is, as the index keeps it; None where it does not know the run."""
    found = database.execute("SELECT ledger FROM runs WHERE run = ?", (run,)).fetchone()
    return None if found is None else str(found[0])


def _add_fingerprints(database: sqlite3.Connection) -> None:
    """Let an index from before there were fingerprints hold some; later runs on its images enter them."""
    if "fingerprint" not in {column for _, column, *_ in database.execute("PRAGMA table_info(images)")}:
        database.execute("ALTER TABLE images ADD COLUMN fingerprint BLOB")


def _fill_batch(
    database: sqlite3.Connection,
    identities: Names,
    fingerprints: Fingerprints | None = None,
    units: Names | None = None,
) -> None:
    """Make these images the ``batch``, and their units those ``named``, that the functions below work on."""
    prints = None if fingerprints is None else rows_of(fingerprints)
    database.execute("DELETE FROM batch")
    database.executemany(
        f"INSERT OR IGNORE INTO batch VALUES (?, NULLIF(?, zeroblob({FINGERPRINT_BYTES})))",
        in_order(identities, prints),
    )
    known_units.fill_units(database, identities, units)


def _count(database: sqlite3.Connection, batch: str = "batch") -> int:
    (count,) = database.execute(f"SELECT COUNT(*) FROM {batch}").fetchone()
    return int(count)


def _standings_of_batch(database: sqlite3.Connection, of_all: Sequence[Ledger]) -> list[Standing]:
    """Say what counts for the images in ``batch``, the units ``named`` and those that the images are of."""
    unit: Unit = "unit" if _count(database, "named") else "image"
    on_units, images = known_units.runs_on_units(database), []
    own = Role(mixed=unit == "unit")
    for cell in _all_cells(database):
        roles = frozenset((run, Role(mixed=run in on_units)) for run in cell.runs)
        images.append(Touched(cell.size, roles, "image", own))
    return standings(database, of_all, [*images, *known_units.touched_units(database)], unit)


def _standings_of(database: sqlite3.Connection, ledgers: Sequence[Ledger]) -> list[Standing]:
    """Say what counts for all that the runs of these ledgers protect. Where the index knows nothing of that,
    it is one for all that the data set has.
    """
    unit = ledgers[0].unit
    paths = [stored(database, ledger.path) for ledger in ledgers]
    if unit == "unit":
        known_units.name_units_of(database, paths)
        touched = known_units.touched_units(database)
    else:
        on_units = known_units.runs_on_units(database)
        touched = [
            Touched(cell.size, frozenset((run, Role(mixed=run in on_units)) for run in cell.runs))
            for cell in _cells_of(database, paths)
        ]
    nobody = Touched(ledgers[0].num_examples, frozenset(), unit)
    return standings(database, ledgers, touched or [nobody], unit)


def _touched(database: sqlite3.Connection) -> list[Cell]:
    """Return the cells that images in ``batch`` are in."""
    return [Cell(size, _members(database, cell)) for cell, size in _cells_of_batch(database)]


def _all_cells(database: sqlite3.Connection) -> list[Cell]:
    """Return the cells of the images in ``batch``, with one of those that no run has touched."""
    cells = _touched(database)
    untouched = _count(database) - sum(cell.size for cell in cells)
    return [*cells, Cell(untouched, frozenset())] if untouched else cells


def _cells_of(database: sqlite3.Connection, paths: Sequence[str]) -> list[Cell]:
    """Return the cells of all images that the runs of ledgers at these paths have touched."""
    found = database.execute(
        "SELECT DISTINCT cell, size FROM runs JOIN members USING (run) JOIN cells USING (cell) "
        f"WHERE ledger IN ({','.join('?' * len(paths))}) AND size > 0 ORDER BY cell",
        paths,
    ).fetchall()
    return [Cell(size, _members(database, cell)) for cell, size in found]


def _cells_of_batch(database: sqlite3.Connection, batch: str = "batch") -> list[tuple[int, int]]:
    """Return the cells of the images in ``batch``, and how many of these each has."""
    return database.execute(
        f"SELECT cell, COUNT(*) FROM {batch} JOIN images USING (identity) GROUP BY cell ORDER BY cell"
    ).fetchall()


def _members(database: sqlite3.Connection, cell: int) -> frozenset[str]:
    return frozenset(run for (run,) in database.execute("SELECT run FROM members WHERE cell = ?", (cell,)))


def _enter_batch(
    database: sqlite3.Connection, run: str, ledger: Path, events: Sequence[Event], opened: bool = False
) -> None:
    """Add a run on the images in ``batch``, of the units ``named``, in one transaction."""
    with database:
        database.execute(
            "INSERT INTO runs (run, ledger, events, opened) VALUES (?, ?, ?, ?)",
            (run, stored(database, ledger), _text(events), opened),
        )
        database.execute(
            "UPDATE images SET fingerprint = "
            "(SELECT fingerprint FROM batch WHERE batch.identity = images.identity) "
            "WHERE fingerprint IS NULL "
            "AND identity IN (SELECT identity FROM batch WHERE fingerprint IS NOT NULL)"
        )
        _add_to_cells(database, run, "batch")
        _add_to_cells(database, run, "named")
        known_units.remember(database, run)


def _add_to_cells(database: sqlite3.Connection, run: str, batch: str) -> None:
    """Let a run touch what is in ``batch``, of one kind: so are its cells, then."""
    for cell, touched in _cells_of_batch(database, batch):
        (size,) = database.execute("SELECT size FROM cells WHERE cell = ?", (cell,)).fetchone()
        if touched < size:
            cell = _split(database, cell, touched, batch)
        database.execute("INSERT INTO members VALUES (?, ?)", (cell, run))
    known, count = sum(size for _, size in _cells_of_batch(database, batch)), _count(database, batch)
    if known < count:
        cell = _new_cell(database, count - known, {run})
        database.execute(
            f"INSERT OR IGNORE INTO images SELECT identity, ?, fingerprint FROM {batch}", (cell,)
        )


def _take_over(database: sqlite3.Connection, of_all: Sequence[Ledger], besides: str = "") -> None:
    """Enter the runs of a data set, whose images are the ``batch``, that its ledgers have and the index has
    not, for they are older than it. From now on they count for these images in other data sets too.
    """
    for ledger in of_all:
        for run, events in ledger.counted().items():
            if run != besides and not _has(database, run):
                _enter_batch(database, run, ledger.path, events, opened=True)


def _split(database: sqlite3.Connection, cell: int, touched: int, batch: str) -> int:
    """Move the images of a cell that are in ``batch`` into a new one with the same runs; return that."""
    new = _new_cell(database, touched, _members(database, cell))
    database.execute("UPDATE cells SET size = size - ? WHERE cell = ?", (touched, cell))
    database.execute(
        f"UPDATE images SET cell = ? WHERE cell = ? AND identity IN (SELECT identity FROM {batch})",
        (new, cell),
    )
    return new


def _new_cell(database: sqlite3.Connection, size: int, runs: Iterable[str]) -> int:
    cell = database.execute("INSERT INTO cells (size) VALUES (?)", (size,)).lastrowid
    assert cell is not None
    database.executemany("INSERT INTO members VALUES (?, ?)", ((cell, run) for run in runs))
    return cell


def _text(events: Sequence[Event]) -> str:
    return json.dumps([written(event) for event in merge_events(events)])


@contextlib.contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the index of images in {folder} cannot be used: {error.strerror or error}"
        ) from error
    except sqlite3.Error as error:
        raise InputError(
            f"the index of images in {folder} cannot be used ({error}); restore it from a copy"
        ) from error
