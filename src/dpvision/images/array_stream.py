"""Arrays of images that a file holds one value after another, to the one form, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.conversion import Conversion
from dpvision.images.faults import Stacked
from dpvision.images.files import reading
from dpvision.images.room import Memory, Room, room
from dpvision.images.stack import stack
from dpvision.privacy.errors import InputError

BLOCK_BYTES = 2**20
"""Bytes that are unpacked at a time, beside the pixels that are handed over."""


class Stream(Protocol):
    """A file, or what unpacks one."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int: ...


class Values:
    """The values of an array, one after another, as many as its header states.

    Args:
        stream: what they are read from.
        count: bytes that there must be.
        what: the array, in words for messages.
    """

    def __init__(self, stream: Stream, count: int, what: str) -> None:
        self._stream, self._count, self._what = stream, count, what

    def fill(self, array: NDArray[np.uint8]) -> None:
        """Fill an array, however it lies in memory, with the next values, block by block.

        Raises:
            InputError: the stream is damaged, or ends before.
        """
        if array.flags.c_contiguous:
            self._fill_block(array)
        elif array.nbytes <= BLOCK_BYTES:
            block = np.empty(array.shape, dtype=np.uint8)
            self._fill_block(block)
            array[...] = block
        else:
            at_once = max(1, BLOCK_BYTES // array[0].nbytes)
            for start in range(0, len(array), at_once):
                part = array[start : start + at_once]
                self.fill(part if len(part) > 1 else part[0])

    def check_end(self) -> None:
        """Raise InputError if there are more values, or a checksum at the end that does not agree."""
        if self._next(bytearray(1)):
            raise self._wrong_length()

    def _fill_block(self, block: NDArray[np.uint8]) -> None:
        left = memoryview(block.reshape(-1).data)
        while left:
            count = self._next(left[:BLOCK_BYTES])
            if count == 0:
                raise self._wrong_length()
            left = left[count:]

    def _next(self, buffer: bytearray | memoryview) -> int:
        with reading(self._what):
            return self._stream.readinto(buffer)

    def _wrong_length(self) -> InputError:
        return InputError(
            f"{self._what} does not hold the {self._count} bytes that its header states; it is damaged: "
            "replace it"
        )


@dataclass(frozen=True)
class ImageArray:
    """The header of an array of images.

    Attributes:
        dtype: the type of its values; it must be uint8.
        shape: [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3.
        what: the array, in words for messages.
        fortran: whether the first index changes fastest in the file, and not the last.

    Raises:
        InputError: for any other type or shape.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    what: str
    fortran: bool = False

    def __post_init__(self) -> None:
        if self.dtype != np.uint8:
            raise InputError(
                f"{self.what} holds {self.dtype}, not uint8; scale the pixels to 0..255 and save them "
                "with .astype(np.uint8)"
            )
        if len(self.shape) != 3 and not self._channels_last and not self._channels_first:
            raise InputError(
                f"{self.what} has shape {list(self.shape)}; images must be [N, H, W], [N, H, W, C] or "
                "[N, C, H, W] with C 1 or 3"
            )
        if 0 in self.shape:
            raise InputError(f"{self.what} holds no images; at least one is needed")

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of every image."""
        if len(self.shape) == 3:
            return 1, *self.shape[1:]
        first, second, third = self.shape[1:]
        return (third, first, second) if self._channels_last else (first, second, third)

    def read(self, stream: Stream, conversion: Conversion) -> Stacked:
        """Read the values in a stream as images. Takes no more memory than a few blocks beside the room of
        these, but for arrays in Fortran's order: those are unpacked whole.

        Raises:
            InputError: the stream is damaged, or has fewer values or more.
        """
        values = Values(stream, math.prod(self.shape), self.what)
        if conversion.keeps(self.image_shape) and conversion.value_range in (None, (0, 255)):
            return Stacked(self._whole(values, room()), None, torch.arange(len(self)))
        images = iter(self._whole(values, Memory()).numpy()) if self.fortran else self._each(values)
        named = ((f"{self.what}, image {index}", image) for index, image in enumerate(images))
        return stack(named, len(self), lambda image, _: image, self.what, conversion)

    def _whole(self, values: Values, place: Room) -> Tensor:
        """Return all images [N, C, H, W] as they are. In Fortran's order none is whole before all are."""
        pixels = place.pixels(len(self), self.image_shape, self.what)
        for block in pixels.blocks(whole=self.fortran):
            as_stored = self._as_stored(block)
            values.fill(as_stored.T if self.fortran else as_stored)
        values.check_end()
        return pixels.tensor()

    def _each(self, values: Values) -> Iterator[NDArray[np.uint8]]:
        """Yield one image [C, H, W] after the other, of an array that is not in Fortran's order."""
        at_once = max(1, BLOCK_BYTES // math.prod(self.image_shape))
        for start in range(0, len(self), at_once):
            block = np.empty((min(at_once, len(self) - start), *self.image_shape), dtype=np.uint8)
            values.fill(self._as_stored(block))
            yield from block
        values.check_end()

    def _as_stored(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a view of images [n, C, H, W] with the axes of this array."""
        if len(self.shape) == 3:
            return pixels[:, 0]
        return pixels.transpose(0, 2, 3, 1) if self._channels_last else pixels

    @property
    def _channels_last(self) -> bool:
        return len(self.shape) == 4 and self.shape[3] in (1, 3)  # NumPy's habit, so it goes first

    @property
    def _channels_first(self) -> bool:
        return len(self.shape) == 4 and self.shape[1] in (1, 3)
