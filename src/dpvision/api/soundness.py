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

_MOST_BYTES = 2**29
"""Of a ledger, which is read whole: room for the lines of a million steps."""

_RESTORE = "restore it from a copy"


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
    missing = {path for path in known if _is_gone(path)}
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


def _may_be_opened(path: Path, faults: list[Fault], mend: str) -> bool:
    """Say whether there is a regular file at a path, for opening a pipe waits for a writer; if not, a fault
    is added. OSError where it cannot be told.
    """
    is_file = stat.S_ISREG(path.stat().st_mode)
    if not is_file:
        faults.append(Fault(str(path), "is no regular file", mend))
    return is_file


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
    restore = _RESTORE if known else f"{_RESTORE}, or move it away"
    try:
        if not _may_be_opened(path, faults, restore):
            return None
        if (size := path.stat().st_size) > _MOST_BYTES:
            what = f"was not read, for it has {size} bytes, and hardly a ledger has over {_MOST_BYTES}"
            faults.append(Fault(str(path), what, restore))
            return None
        ledger = Ledger(path, read_only=True)
        name, lost = default_ledger_path(ledger.digest).name, known - ledger.counted().keys()
        faults += _faults_of_mode(path, "600")  # asked last: the index may name a file that is no ledger
    except (InputError, OSError) as error:
        faults.append(_unreadable(path, error, restore))
        return None
    if path.parent == default_ledger_path("").parent and path.name != name:
        faults.append(
            Fault(str(path), "is the ledger of another data set than its name says", f"call it {name}")
        )
    if lost:
        what = (
            f"has lost {len(lost)} of the {len(known)} runs that the index knows of: it is an older copy, or "
            "was cut off or begun anew"
        )
        faults.append(Fault(str(path), what, "restore it from a copy that has them"))
    return ledger


def _unreadable(path: Path, error: InputError | OSError, restore: str) -> Fault:
    """Say why a ledger cannot be read; how to mend it is ``restore``, unless the error knows better."""
    if isinstance(error.__cause__ or error, PermissionError):
        return Fault(str(path), "cannot be read: Permission denied", f"as its owner, chmod u+rw {path}")
    if isinstance(error, OSError):
        return Fault(str(path), f"cannot be read: {error.strerror}", restore)
    said = str(error).removesuffix(".").removeprefix("the ledger ").removeprefix(f"{path} ")
    what, _, mend = said.rpartition("; ")
    is_known = what and mend not in (_RESTORE, "name another file")  # which nobody has named here
    return Fault(str(path), what or mend, mend if is_known else restore)


def _is_gone(path: Path) -> bool:
    """Say whether nothing is at a path, not even a link that leads nowhere."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # which reading it says
    return False


def _gone(path: Path) -> Fault:
    return Fault(
        str(path),
        "is gone, though the index knows runs of it: they count for what it knows of them, and the ledger's "
        "limit holds no more",
        _RESTORE,
    )


def _known_to_index(folder: Path, faults: list[Fault]) -> dict[Path, set[str]]:
    """Return the runs that were opened in each ledger, as the index knows them; what is wrong with the index
    is added to the faults.
    """
    path, key = folder / "index.sqlite", folder / "key"
    try:
        mends = {
            path: _RESTORE,
            key: _RESTORE,
            folder / "lock": "move it away while no run goes on",
        }
        present = [one for one in mends if one.exists()]
        if not all(_may_be_opened(one, faults, mends[one]) for one in present):
            return {}
        for one in present:
            faults += _faults_of_mode(one, "600")
        if key in present and key.stat().st_size != KEY_BYTES:
            faults.append(Fault(str(key), "is damaged", _RESTORE))
        if path not in present or path.stat().st_size == 0:
            return {}
        if key not in present:
            faults.append(Fault(str(key), "is missing, so that no image is found in the index", _RESTORE))
        if (folder / "index.sqlite-journal").exists():
            faults.append(
                Fault(str(path), "a write to it was cut off", "the next run undoes that; look again then")
            )
            return {}
        return _read_index(path, faults)
    except (sqlite3.Error, OSError) as error:
        faults.append(Fault(str(path), f"cannot be read ({error})", _RESTORE))
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
    faults += [Fault(str(path), f"is damaged: {what}", _RESTORE) for what in disagree]
    known: dict[Path, set[str]] = {}
    for run, ledger in () if disagree else rows:
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
    "it has a run without a name or a ledger": (
        "SELECT COUNT(*) FROM runs WHERE typeof(run) <> 'text' OR typeof(ledger) <> 'text' OR ledger = '' "
        "OR instr(ledger, char(0))"
    ),
}
"""What cannot be so in a sound index, with a query that counts it."""
