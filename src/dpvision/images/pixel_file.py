"""A file of pixels, written by a reader in place of an array in memory."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.files import check_fits_memory
from dpvision.images.store_files import new_file
from dpvision.privacy.errors import InputError

logger = logging.getLogger("dpvision")

BLOCK_BYTES = 2**22
"""Bytes of images that are moved at a time."""

BYTES_BESIDE = 256
"""Bytes on disk that an image is taken to need beside its pixels: digest, label, unit and names."""

TOLD_EVERY = 256  # images

Told = Callable[[int, int], None]
"""Is told how many images are written, and how many there will be."""


class FilePixels:
    """A file of the pixels of N images, one after another.

    Errors of writing are OSError: whoever makes the store tells them.

    Args:
        path: of the file, which is made.
        count, shape: N, and (C, H, W).
        told: see above.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, ...], told: Told) -> None:
        self._path, self._count, self._shape, self._told = path, count, shape, told
        self._size = int(np.prod(shape))
        self._file = new_file(path)
        self._file.truncate(count * self._size)
        self._written, self._lock = 0, threading.Lock()

    def put(self, first: int, images: NDArray[np.uint8]) -> None:
        self._write(first, images)
        with self._lock:
            self._written += len(images)
            if self._written % TOLD_EVERY < len(images) or self._written == self._count:
                self._told(self._written, self._count)

    def blocks(self, whole: bool = False) -> Iterator[NDArray[np.uint8]]:
        at_once = self._count if whole else max(1, BLOCK_BYTES // self._size)
        for first in range(0, self._count, at_once):
            count = min(at_once, self._count - first)
            if whole:
                check_fits_memory(count * self._size, f"{self._count} images in Fortran's order")
            block = np.empty((count, *self._shape), dtype=np.uint8)
            yield block
            self.put(first, block)

    def tensor(self, kept: Tensor | None = None) -> Tensor:
        """Return a view of the file, of which nothing is in memory until it is looked at."""
        if kept is not None:
            self._keep(kept)
        with self._file:
            os.fsync(self._file.fileno())
        count = self._count if kept is None else len(kept)
        # For reading and writing, though nobody writes: torch knows no tensors that are read only, and of a
        # private copy the system would ask that it fit in memory.
        return torch.from_numpy(np.memmap(self._path, np.uint8, "r+", shape=(count, *self._shape)))

    def _keep(self, kept: Tensor) -> None:
        """Move the images at these places, ascending, to the front, and cut off the others."""
        at_once, to = max(1, BLOCK_BYTES // self._size), 0
        for places in kept.split(at_once):
            block = np.empty((len(places), *self._shape), dtype=np.uint8)
            for image, place in zip(block, places.tolist(), strict=True):
                os.preadv(self._file.fileno(), [image.data], place * self._size)
            self._write(to, block)
            to += len(places)
        self._file.truncate(len(kept) * self._size)

    def _write(self, first: int, images: NDArray[np.uint8]) -> None:
        left, offset = np.ascontiguousarray(images).data.cast("B"), first * self._size
        while left:
            count = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[count:], offset + count


class Disk:
    """Room for one data set in a folder.

    Args:
        folder: where the file goes.
        name: of the file.
        told: see above.
        why: what to say when it is made, for people.
    """

    def __init__(self, folder: Path, name: str, told: Told, why: str) -> None:
        self.folder = folder
        self._name, self._told, self._why = name, told, why

    def pixels(self, count: int, shape: tuple[int, ...], what: str) -> FilePixels:
        """Make the file. InputError where the disk has no room for it, and what belongs to it."""
        size = count * (int(np.prod(shape)) + BYTES_BESIDE)
        if size > (free := free_bytes(self.folder)):
            raise InputError(
                f"{what} would take {size / 2**30:.1f} GiB, and the disk of {self.folder} has "
                f"{free / 2**30:.1f} GiB left; make room, or set DPVISION_HOME to a folder on another disk"
            )
        logger.info(self._why)
        return FilePixels(self.folder / self._name, count, shape, self._told)


def free_bytes(folder: Path) -> int:
    """Return the bytes that are left on the disk of a folder."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
