"""Where the pixels go that a reader makes: into memory, or into a file where they are too many for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.files import check_fits_memory
from dpvision.privacy.errors import InputError


class Pixels(Protocol):
    """A place for the pixels of N images, uint8 [N, C, H, W]."""

    def put(self, first: int, images: NDArray[np.uint8]) -> None:
        """Put images [n, C, H, W] in the places from ``first`` on. Several threads may do so at once."""

    def blocks(self, whole: bool = False) -> Iterator[NDArray[np.uint8]]:
        """Yield arrays [n, C, H, W], one after another, that whoever asks fills with all N images in order.
        With ``whole`` it is one.
        """

    def tensor(self, kept: Tensor | None = None) -> Tensor:
        """Return the images, or those of these places, ascending. Nothing can be put afterwards."""


class Room(Protocol):
    """A kind of such places."""

    def pixels(self, count: int, shape: tuple[int, ...], what: str) -> Pixels:
        """Make a place for images of a shape (C, H, W); ``what`` they are, in words for messages.

        Raises:
            InputError: there is no room for so many.
        """


class BeyondShareError(InputError):
    """The error raised where pixels are more than the share of memory that they may have."""


class MemoryPixels:
    """An array in memory."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self._array = np.empty((count, *shape), dtype=np.uint8)

    def put(self, first: int, images: NDArray[np.uint8]) -> None:
        self._array[first : first + len(images)] = images

    def blocks(self, whole: bool = False) -> Iterator[NDArray[np.uint8]]:
        yield self._array

    def tensor(self, kept: Tensor | None = None) -> Tensor:
        whole = torch.from_numpy(self._array)
        return whole if kept is None else whole[kept]  # which is a copy


class Memory:
    """All of the memory that there is, or a share of it.

    Args:
        most: bytes that pixels may take; None for as many as there are.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most

    def pixels(self, count: int, shape: tuple[int, ...], what: str) -> MemoryPixels:
        """Make an array. BeyondShareError where it would take more than the share."""
        size = count * int(np.prod(shape))
        if self._most is not None and size > self._most:
            raise BeyondShareError(
                f"{what} would take {size / 2**30:.1f} GiB, more than the {self._most / 2**30:.1f} GiB of "
                "memory that images may take here"
            )
        check_fits_memory(size, what)
        return MemoryPixels(count, shape)


_room: ContextVar[Room] = ContextVar("room", default=Memory())  # noqa: B039 (it is never changed)


def room() -> Room:
    """Return the room that pixels are to be put in, here and now."""
    return _room.get()


@contextmanager
def reading_into(place: Room) -> Iterator[None]:
    """Let readers put pixels there until the end of the block."""
    before = _room.set(place)
    try:
        yield
    finally:
        _room.reset(before)
