"""What tells whether the files of a data set are still those that were read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dpvision.images.files import MAX_NESTING, reading


def state_of(files: Iterable[str]) -> str:
    """Compute a SHA-256 (hex) of the paths, sizes and times of files. No content is read.

    Whoever changes a file changes its time of last change of status, which cannot be set back but by the
    clock. So do copies of it in place, new links and new owners: then it may be the same content.

    Raises:
        InputError: one is there and cannot be looked at.
    """
    sha256 = hashlib.sha256()
    for file in files:
        sha256.update(repr((file, _times(file))).encode(errors="surrogatepass"))
    return sha256.hexdigest()


def _times(file: str) -> tuple[int, ...] | None:
    """Return the size of a file and its times; None where there is none, for a table may name such."""
    with reading(file):
        try:
            found = os.stat(file)
        except FileNotFoundError:
            return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def files_in(path: Path) -> Iterator[str]:
    """Yield the absolute path of a file, or of all files in a folder at any depth that is read, in order, but
    for those whose names begin with a dot.
    """
    if path.is_dir():
        yield from _in_folder(str(path.absolute()), MAX_NESTING, set())
    elif path.exists():
        yield str(path.absolute())


def _in_folder(folder: str, depth: int, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Yield likewise those in a folder; ``seen`` are the folders that were gone through: links may loop."""
    with reading(folder):
        own = os.stat(folder)
        entries = sorted((entry.name, entry.is_dir()) for entry in os.scandir(folder))
    if (own.st_dev, own.st_ino) in seen:
        return
    seen.add((own.st_dev, own.st_ino))
    for name, is_folder in entries:
        if name.startswith("."):
            continue
        place = os.path.join(folder, name)
        if not is_folder:
            yield place
        elif depth:
            yield from _in_folder(place, depth - 1, seen)
