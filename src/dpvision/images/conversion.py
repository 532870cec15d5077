"""What becomes of an image once it is decoded: its range of values, channels and size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dpvision.images.files import reading
from dpvision.privacy.errors import InputError, named_option

MAX_PIXELS = 2**26
"""The largest image that is decoded, in pixels (8192 x 8192). A file of a few kB can claim any size."""

STRIP_PIXELS = 2**18
"""Pixels whose values are converted at a time."""

Values = TypeVar("Values", bound=np.generic)

Resize = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class Deep:
    """A grey image that says itself which of its values to show.

    Attributes:
        values: float64 [1, H, W], those that a `value_range` is of.
        shown: uint8 [1, H, W], how it looks without a range, and what it is known by.
        has_window: whether it does say so; otherwise shown is what there can be at all.
        inverted: whether its low values are bright.
    """

    values: NDArray[np.float64]
    shown: NDArray[np.uint8]
    has_window: bool
    inverted: bool


@dataclass(frozen=True)
class Conversion:
    """The conversion to apply to every image. By default none: all must agree in size and channels.

    Attributes:
        size: side in pixels of the square that every image becomes (bicubic, antialiased). None keeps the
            size.
        channels: 1 makes every image grey, 3 RGB. None keeps grey as 1 channel and colour as 3.
        resize: how an image becomes a square: "crop" cuts out the largest centred one, "pad" adds black
            beside the shorter side, "stretch" changes the proportions.
        value_range: the values, of more than 8 bits, that become black and white; those beyond are black and
            white too. None takes the high 8 of 16 bits.

    Raises:
        InputError: for a value that no image can have.
    """

    size: int | None = None
    channels: int | None = None
    resize: Resize = "crop"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not (self.size >= 1 and self.size**2 <= MAX_PIXELS):
            raise InputError(f"size must be 1 to {int(MAX_PIXELS**0.5)} pixels, got {self.size}")
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels must be 1 (grey) or 3 (colour), got {self.channels}")
        if self.resize not in get_args(Resize):
            raise InputError(f"resize must be one of {', '.join(get_args(Resize))}, not {self.resize!r}")

    def convert(self, values: NDArray[Any] | Deep, name: str) -> NDArray[np.uint8]:
        """Return an image, uint8 [C, H, W], of `decode`'s values, with the options applied; name is for
        messages.
        """
        pixels = self._in_eight_bits(values, name)
        if self.keeps(pixels.shape):
            return pixels
        with reading(name):
            channels_last = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            image = Image.fromarray(channels_last)
            if self.channels is not None:
                image = image.convert("L" if self.channels == 1 else "RGB")
            if self.size is not None and image.size != (self.size, self.size):
                image = self._square(image, (self.size, self.size))
            return to_array(image)

    def keeps(self, shape: tuple[int, ...]) -> bool:
        """Say whether images of this shape (C, H, W) stay as they are."""
        channels, height, width = shape
        return self.channels in (None, channels) and (self.size is None or self.size == height == width)

    def _square(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        bicubic = Image.Resampling.BICUBIC
        if self.resize == "stretch":
            return image.resize(size, bicubic)
        return (ImageOps.pad if self.resize == "pad" else ImageOps.fit)(image, size, method=bicubic)

    def _in_eight_bits(self, values: NDArray[Any] | Deep, name: str) -> NDArray[np.uint8]:
        if isinstance(values, Deep):
            return self._of_deep(values, name)
        if self.value_range is None:
            if values.dtype == np.float64:
                raise InputError(
                    f"{name} has 32-bit pixels, whose range is unknown; say it with "
                    f"{named_option('value_range', '0:4095')} or as it is, or save it with 8 or 16 bits"
                )
            return known_by(values)
        low, high = self.value_range
        if values.dtype == np.uint8:
            if self.value_range == (0, 255):
                return values
            raise InputError(
                f"{name} has pixels of 8 bits, from 0 to 255, and not of the range {low:g} to {high:g}; read "
                "it apart from those that have more"
            )
        if values.dtype == np.uint16 and len(values) == 3:
            raise InputError(
                f"{name} has colours of 16 bits, of which only the high 8 can be read, and so no other "
                "range; save it as grey, or with 8 bits"
            )
        if not np.isfinite(values).all():
            raise InputError(f"{name} has pixels that are no numbers; mend or remove it")
        return scaled(values, low, high)

    def _of_deep(self, deep: Deep, name: str) -> NDArray[np.uint8]:
        if self.value_range is not None:
            pixels = scaled(deep.values, *self.value_range)
            return 255 - pixels if deep.inverted else pixels
        if not deep.has_window:
            raise InputError(
                f"{name} has no window of values to show; say the range with "
                f"{named_option('value_range', '-1000:400')} or as it is"
            )
        return deep.shown


def value_range(given: str | Sequence[float] | None) -> tuple[float, float] | None:
    """Return a range of values, given as "0:4095" or as two numbers.

    Raises:
        InputError: it is none.
    """
    if given is None:
        return None
    try:
        low, high = map(float, given.split(":") if isinstance(given, str) else given)
    except (TypeError, ValueError):
        low = high = 0.0
    if not -math.inf < low < high < math.inf:
        raise InputError(f"value_range must be two numbers, the lower first, such as 0:4095, not {given!r}")
    return low, high


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Return values [..., H, W] from low to high as 0 to 255; those beyond are 0 and 255."""

    def of_strip(strip: NDArray[Any]) -> NDArray[np.float64]:
        return np.rint(((strip.astype(np.float64) - low) * (255 / (high - low))).clip(0, 255))

    return by_strips(of_strip, values, np.empty(values.shape, dtype=np.uint8))


def by_strips(
    make: Callable[[NDArray[Any]], NDArray[Any]], values: NDArray[Any], out: NDArray[Values]
) -> NDArray[Values]:
    """Fill ``out`` [..., H, W] with what is made of values of this shape, and return it. It is made of some
    rows at a time: on the way a value may take many times its memory.
    """
    at_once = max(1, STRIP_PIXELS // values.shape[-1])
    for start in range(0, values.shape[-2], at_once):
        rows = slice(start, start + at_once)
        out[..., rows, :] = make(values[..., rows, :])
    return out


def known_by(values: NDArray[Any] | Deep) -> NDArray[Any]:
    """Return what an image is known by, whatever range it is read with: the high 8 bits of values of 16, what
    a deep image shows, and other values as they are.
    """
    if isinstance(values, Deep):
        return values.shown
    return (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return a grey or RGB image as [C, H, W]."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
