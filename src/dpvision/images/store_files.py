"""The files of a store: written for their owner alone, and read at any place without being held in memory."""

from __future__ import annotations

import os
import weakref
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

    def read_cached(self, buffer: memoryview, offset: int) -> bool:
        """Fill a buffer likewise if the system has all these bytes at hand; say whether it had."""
        try:
            return os.preadv(self.descriptor, [buffer], offset, os.RWF_NOWAIT) == len(buffer)
        except (AttributeError, OSError):  # it may not know how to tell
            return False

    def expect(self, offset: int, count: int) -> None:
        """Tell the system that bytes will be read soon, so that it fetches them while others are used."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.descriptor, offset, count, os.POSIX_FADV_WILLNEED)
