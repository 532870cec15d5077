"""The files of a store: written for their owner alone, and read at any place without being held in memory."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dpvision.privacy.errors import InputError
from dpvision.privacy.owner_only import for_the_owner


def new_file(path: Path) -> IO[bytes]:
    """Open a new file to be written and read, which only its owner may read, whatever the umask."""
    return open(path, "x+b", opener=for_the_owner)


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as NumPy's .npy file."""
    with new_file(path) as file:
        np.save(file, array, allow_pickle=False)


def load_array(path: Path) -> NDArray[Any]:
    """Read an array that was saved so."""
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False)


class Content:
    """The bytes of a file, read where they are asked for. It stays open while this object lives: who removes
    the file meanwhile takes nothing away.

    It is not mapped into memory. Pages of a map count as the process's own, and where a file is cut off it
    would be killed instead of being told.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes from an offset on. Several threads may do so at once.

        Raises:
            InputError: they cannot be read, or there are fewer.
        """
        while buffer:
            try:
                count = os.preadv(self.descriptor, [buffer], offset)
            except OSError as error:
                raise InputError(f"{self.path} cannot be read: {error.strerror or error}") from error
            if count == 0:
                raise InputError(
                    f"{self.path} ends before its images do; remove it with dpvision data SPEC --forget, and "
                    "it is made again"
                )
            buffer, offset = buffer[count:], offset + count

    def read_each(self, parts: Sequence[tuple[memoryview, int]]) -> None:
        """Fill several buffers likewise, each from an offset of its own on.

        Those whose bytes the system has at hand come first. It is told of all others before one is waited
        for, so that the disk is busy with many at a time.
        """
        left = list(self._not_at_hand(parts))
        if hasattr(os, "posix_fadvise"):
            for buffer, offset in left:
                os.posix_fadvise(self.descriptor, offset, len(buffer), os.POSIX_FADV_WILLNEED)
        for buffer, offset in left:
            self.read_into(buffer, offset)

    def _not_at_hand(self, parts: Sequence[tuple[memoryview, int]]) -> Iterator[tuple[memoryview, int]]:
        """Fill the buffers that can be filled without waiting, and yield the others."""
        if not hasattr(os, "RWF_NOWAIT"):
            yield from parts
            return
        read, descriptor, without_waiting = os.preadv, self.descriptor, os.RWF_NOWAIT  # a thousand times
        for part in parts:
            try:
                if read(descriptor, part[:1], part[1], without_waiting) == len(part[0]):
                    continue
            except OSError:  # what is wrong is told where it is read again
                pass
            yield part
