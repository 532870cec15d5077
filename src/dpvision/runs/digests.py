"""Take the digest of every file in a release, whoever made it. It imports nothing that takes seconds."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dpvision.privacy.errors import InputError

_BLOCK = 1 << 20

_OF_DOWNLOADS = (".cache/huggingface", ".git")
"""Folders in which what downloads a release keeps its own notes. Nothing of a release is read from there."""


def digests(folder: Path) -> dict[str, str | None]:
    """Return the SHA-256 of every file under a folder, by its path within it ("images/png/0.png").

    Of what is no file, it is None: links, which are not followed, pipes and devices, which are not opened,
    and folders that hold nothing. What downloads a release leaves in ``.cache/huggingface`` and ``.git`` does
    not count.

    Raises:
        InputError: something cannot be read.
    """
    try:
        return {name: _digest(path) for name, path in _entries(folder)}
    except OSError as error:
        raise InputError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error


def _entries(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the path of all that is under a folder but folders with something in them."""
    waiting = [("", str(folder))]
    while waiting:
        prefix, path = waiting.pop()
        with os.scandir(path) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        if prefix and not found:
            yield prefix, path
        for entry in found:
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if name in _OF_DOWNLOADS and entry.is_dir(follow_symlinks=False):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append((name, entry.path))
            else:
                yield name, entry.path


def _digest(path: str) -> str | None:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return None
    digest = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
