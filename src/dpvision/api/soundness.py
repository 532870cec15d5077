"""Look over the ledgers of a machine and the index of images, and change nothing: what is unsound, and where.

What is found is private as the files are, for their paths name data sets and runs.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from dpvision.privacy.errors import InputError
from dpvision.privacy.image_index import KEY_BYTES, default_index_folder
from dpvision.privacy.ledger import About, Ledger, default_ledger_path

_ALL = os.R_OK | os.W_OK | os.X_OK


@dataclass(frozen=True)
class Fault:
    """Something that is not as it must be.

    Attributes:
        where: the file or folder, or the library.
        what: is wrong with it.
        mend: how to mend it.
    """

    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.mend}"


@dataclass(frozen=True)
class Ledgers:
    """What was found of the ledgers and the index.

    Attributes:
        folder: where a ledger is unless a run names another place.
        paths: the ledgers: those there, and those elsewhere that the index knows of.
        open_runs: the runs that may still spend, of the ledgers that can be read: the ledger, the run's id
            and what it is.
        has_index: whether there is an index.
        faults: what is unsound.
    """

    folder: Path
    paths: tuple[Path, ...]
    open_runs: tuple[tuple[Path, str, About], ...]
    has_index: bool
    faults: tuple[Fault, ...]


def look_over_ledgers() -> Ledgers:
    """Read every ledger and the index as they are."""
    folder, index = default_ledger_path("").parent, default_index_folder()
    faults = [*_faults_of_folder(folder), *_faults_of_folder(index)]
    known = _known_to_index(index, faults)
    missing = {path for path in known if not path.exists()}
    here = set(folder.glob("*.jsonl")) if os.access(folder, _ALL, effective_ids=True) else set()
    faults += [_gone(path) for path in sorted(missing)]
    paths = sorted((here | known.keys()) - missing)
    ledgers = [ledger for path in paths if (ledger := _sound_ledger(path, known.get(path, set()), faults))]
    has_index = os.path.exists(index / "index.sqlite")
    if not has_index and any(ledger.counted() for ledger in ledgers):
        faults.append(
            Fault(
                str(index / "index.sqlite"),
                "is missing though ledgers have runs: limits do not see what these spent on images that come "
                "again in another data set",
                "restore it from a copy; else the next run on each of their data sets enters them anew",
            )
        )
    open_runs = [(one.path, run, about) for one in ledgers for run, about in one.open_runs().items()]
    return Ledgers(folder, tuple(paths), tuple(open_runs), has_index, tuple(faults))


def _faults_of_folder(folder: Path) -> Iterator[Fault]:
    """Yield what is wrong with a folder that only its owner may enter; one that is not there is sound."""
    try:
        there = folder.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        yield Fault(str(folder), f"cannot be reached: {error.strerror}", "let its owner enter what it is in")
        return
    if not stat.S_ISDIR(there.st_mode):
        yield Fault(str(folder), "is no folder", "move it away")
    elif not os.access(folder, _ALL, effective_ids=True):
        yield Fault(str(folder), "cannot be read and written", f"chmod 700 {folder}, as its owner")
    else:
        yield from _faults_of_mode(folder, "700")


def _faults_of_mode(path: Path, mode: str) -> Iterator[Fault]:
    """Yield a fault where others than the owner may read what is at a path, or its owner is somebody else."""
    found = path.stat()
    if stat.S_IMODE(found.st_mode) & 0o077:
        yield Fault(
            str(path), f"others than its owner may use it ({found.st_mode & 0o777:o})", f"chmod {mode} {path}"
        )
    if found.st_uid != os.geteuid():
        yield Fault(
            str(path),
            f"belongs to user {found.st_uid}, not to you",
            "let each user have ledgers of their own",
        )


def _sound_ledger(path: Path, known: set[str], faults: list[Fault]) -> Ledger | None:
    """Return the ledger at a path if it can be read; what is wrong with it is added to the faults.

    Args:
        path: the file.
        known: the runs that the index knows to have been opened in it.
        faults: those found so far.
    """
    try:
        faults += _faults_of_mode(path, "600")
        ledger = Ledger(path, read_only=True)
        if ledger.path.parent == default_ledger_path("").parent and ledger.digest != path.stem:
            name = default_ledger_path(ledger.digest).name
            faults.append(
                Fault(str(path), "is the ledger of another data set than its name says", f"call it {name}")
            )
        if lost := known - ledger.counted().keys():
            faults.append(
                Fault(
                    str(path),
                    f"has lost {len(lost)} of the {len(known)} runs that the index knows of: it is an "
                    "older copy, or was cut off or begun anew",
                    "restore it from a copy that has them",
                )
            )
        return ledger
    except InputError as error:
        said = str(error).removesuffix(".").removeprefix("the ledger ").removeprefix(f"{path} ")
        what, _, mend = said.rpartition("; ")
        faults.append(
            Fault(str(path), what or mend, mend if what else f"let its owner read it: chmod 600 {path}")
        )
    except OSError as error:
        faults.append(
            Fault(str(path), f"cannot be read: {error.strerror}", f"let its owner read it: chmod 600 {path}")
        )
    return None


def _gone(path: Path) -> Fault:
    return Fault(
        str(path),
        "is gone, though the index knows runs of it: they count for what it knows of them, and the ledger's "
        "limit holds no more",
        "restore it from a copy",
    )


def _known_to_index(folder: Path, faults: list[Fault]) -> dict[Path, set[str]]:
    """Return the runs that were opened in each ledger, as the index knows them; what is wrong with the index
    is added to the faults.
    """
    path, key = folder / "index.sqlite", folder / "key"
    try:
        present = [one for one in (path, key, folder / "lock") if one.exists()]
        for one in present:
            faults += _faults_of_mode(one, "600")
        if key in present and key.stat().st_size != KEY_BYTES:
            faults.append(Fault(str(key), "is damaged", "restore it from a copy"))
        if path not in present or path.stat().st_size == 0:
            return {}
        if key not in present:
            faults.append(
                Fault(
                    str(key), "is missing, so that no image is found in the index", "restore it from a copy"
                )
            )
        if (folder / "index.sqlite-journal").exists():
            faults.append(
                Fault(str(path), "a write to it was cut off", "the next run undoes that; look again then")
            )
            return {}
        return _read_index(path, faults)
    except (sqlite3.Error, OSError) as error:
        faults.append(Fault(str(path), f"cannot be read ({error})", "restore it from a copy"))
        return {}


def _read_index(path: Path, faults: list[Fault]) -> dict[Path, set[str]]:
    """Look an index over as it is; as `_known_to_index`. OSError or sqlite3.Error where it cannot be read."""
    with ExitStack() as stack:
        if (path.parent / "lock").exists():
            fcntl.flock(stack.enter_context(open(path.parent / "lock", "rb")), fcntl.LOCK_SH)
        database = stack.enter_context(
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))
        )
        ((said,),) = database.execute("PRAGMA quick_check(1)").fetchall()
        disagree = [what for what, query in _DISAGREEMENTS.items() if database.execute(query).fetchone()[0]]
        # A limit and the images taken for public ones have rows too, which are never opened.
        rows = database.execute("SELECT run, ledger FROM runs WHERE opened").fetchall()
    if said != "ok":
        disagree.append(said)
    faults += [Fault(str(path), f"is damaged: {what}", "restore it from a copy") for what in disagree]
    known: dict[Path, set[str]] = {}
    for run, ledger in rows:
        known.setdefault((path.parent.parent / ledger).absolute(), set()).add(run)
    return known


_DISAGREEMENTS = {
    "it has other numbers of images than it states": (
        "SELECT COUNT(*) FROM cells LEFT JOIN (SELECT cell, COUNT(*) AS found FROM images GROUP BY cell) "
        "USING (cell) WHERE size <> COALESCE(found, 0)"
    ),
    "it has images that no run has touched": (
        "SELECT COUNT(*) FROM images WHERE cell NOT IN (SELECT cell FROM members)"
    ),
    "it names runs of which it says nothing": (
        "SELECT COUNT(*) FROM members WHERE run NOT IN (SELECT run FROM runs)"
    ),
}
"""What cannot be so in a sound index, with a query that counts it."""
