"""Stores: data sets that were read once, and lie on disk in the form in which they are used.

A store holds one split, read by certain choices. It lies in a folder that only its owner may enter, below
``$DPVISION_HOME/stores``, beside the index of images; those of one data set lie together.

Guarantee: a store that is not whole is not used: it is written under another name, flushed to the disk and
renamed. Nor is one whose data set has other files than when it was read, or whose own were changed. No two
processes make stores of a data set at a time. ``tests/images/test_store.py`` kills and races processes over
it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL

from dpvision.images.data_set import DataSet
from dpvision.images.files import read_json
from dpvision.images.pixel_file import Disk, Told
from dpvision.images.room import reading_into
from dpvision.images.source_state import state_of
from dpvision.images.store_files import new_file
from dpvision.images.store_writing import write_beside_pixels
from dpvision.images.stored import PIXELS, Facts, StoredImages
from dpvision.privacy.errors import InputError
from dpvision.privacy.image_index import default_index_folder
from dpvision.privacy.ledger import sync_folder

logger = logging.getLogger("dpvision")

HEADER, PARTIAL = "store.json", "partial"
"""The file that says what a store is, and the folder of one that is being made, or that a killed process was
making.
"""

MADE_BY = f"form 1, Pillow {PIL.__version__}"
"""What a store depends on beside its data set: its form, and what decoded the images."""


@dataclass(frozen=True)
class Store:
    """The store of a split of a data set, whether it was made or not.

    Attributes:
        data_set: what is read into it, with its choices.
        split, labelled: what of it.
    """

    data_set: DataSet
    split: str
    labelled: bool

    @property
    def spec(self) -> str:
        """The data set's, as it was given."""
        return str(self.data_set.path)

    @property
    def folder(self) -> Path:
        """Where it lies, or would."""
        how = json.dumps([self.split, self.labelled, self.data_set.choices.given()])
        return _folder_of(self.spec) / _key(how)

    @property
    def exists(self) -> bool:
        """Whether one was made, which may be of other files than those there are now."""
        return os.path.isfile(self.folder / HEADER)  # False also where one may not look

    def find_or_make(self, why: str, told: Told) -> StoredImages:
        """Return its images, which are read into it if it is not there, or is no longer true.

        Args:
            why: what to say where it is made, for people.
            told: is told how many images are written.

        Raises:
            InputError: the images cannot be read or written, or changed meanwhile. Nothing is left of them.
        """
        state = state_of(self.data_set.files())
        if (found := self._find(state)) is not None:
            return found
        with _storing(self.folder), _alone_with(_folder_of(self.spec), self.spec):
            found = self._find(state)  # another process may have made it meanwhile
            if found is None:
                if self.exists:
                    why = f"{self.spec}, or its store, has changed since it was read: it is read anew"
                spec = shlex.quote(self.spec)
                why = f"{why}, in {self.folder} (private); dpvision data {spec} --forget removes it"
                self._make(state, Disk(self.folder.with_name(PARTIAL), PIXELS, told, why))
                found = self._find(state)
        if found is None:
            raise InputError(f"{self.folder} was changed while it was made; try again")
        return found

    def _find(self, state: str) -> StoredImages | None:
        """Return its images if it was made of files in this state, see `state_of`, and was not changed."""
        try:
            header = read_json(self.folder / HEADER)
            if (header["made_by"], header["state"]) != (MADE_BY, state):
                return None
            if header["files"] != _files(self.folder):
                return None
            facts = Facts(**{**header["facts"], "shape": tuple(header["facts"]["shape"])})
            return StoredImages(self.folder, facts, self.spec)
        except (OSError, InputError, KeyError, TypeError, ValueError):
            return None  # whatever is wrong with it, it is made again

    def _make(self, state: str, disk: Disk) -> None:
        """Make it on the disk, in place of what is there."""
        _remove(disk.folder)  # as a killed process left it
        try:
            _private_folder(disk.folder)
            with reading_into(disk):
                images = self.data_set.read(self.split, self.labelled)
            if state_of(self.data_set.files()) != state:
                raise InputError(f"the files of {self.spec} have changed while they were read; try again")
            facts = write_beside_pixels(disk.folder, images)
            self._write_header(disk.folder, state, facts)
            for entry in disk.folder.iterdir():
                with entry.open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(disk.folder)
            _remove(self.folder)
            disk.folder.rename(self.folder)
            sync_folder(self.folder.parent)
        finally:
            _remove(disk.folder)

    def _write_header(self, folder: Path, state: str, facts: Facts) -> None:
        header = {
            "spec": self.spec,
            "split": self.split,
            "choices": self.data_set.choices.given(),
            "made_by": MADE_BY,
            "state": state,
            "facts": asdict(facts),
            "files": _files(folder),
        }
        with new_file(folder / HEADER) as file:
            file.write(json.dumps(header).encode())


@dataclass(frozen=True)
class Forgotten:
    """What was removed: how many stores, and how many bytes of the disk."""

    stores: int
    bytes: int


def forget_stores(spec: str) -> Forgotten:
    """Remove all stores of a data set, and what killed processes left. Whoever uses one keeps it until then.

    Raises:
        InputError: one is being made, or cannot be removed.
    """
    folder = _folder_of(spec)
    if not folder.is_dir():
        return Forgotten(0, 0)
    with _storing(folder), _alone_with(folder, spec, wait=False):
        files = [file for file in folder.rglob("*") if file.is_file()]
        found = Forgotten(
            sum(file.name == HEADER for file in files), sum(file.stat().st_size for file in files)
        )
        shutil.rmtree(folder)
    return found


def _folder_of(spec: str) -> Path:
    """Return the folder of the stores of a data set."""
    return default_index_folder().with_name("stores") / _key(os.path.abspath(spec))


def _key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _files(folder: Path) -> dict[str, Any]:
    """Return the sizes and times of a store's files, by their names."""
    found = {file.name: file.stat() for file in folder.iterdir() if file.name != HEADER}
    return {name: [found[name].st_size, found[name].st_mtime_ns] for name in sorted(found)}


def _private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, whatever the umask."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


@contextmanager
def _alone_with(folder: Path, spec: str, wait: bool = True) -> Iterator[None]:
    """Keep other processes from the stores of a data set until the end of the block.

    The folder is the lock. Whoever had it before may have removed it: then it is another.
    """
    while True:
        _private_folder(folder.parent)
        _private_folder(folder)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _lock(descriptor, spec, wait)
            if folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat()):
                yield
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, spec: str, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise InputError(f"another process is making a store of {spec}; end that first") from None
        logger.info(f"another process is making a store of {spec}: waiting for it")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"the store in {folder} cannot be written: {error.strerror or error}; make room there, or set "
            "DPVISION_HOME to another folder"
        ) from error
