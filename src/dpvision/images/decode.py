"""Decode one encoded image of any kind to one uint8 array."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dpvision.images.files import physical_memory, reading
from dpvision.privacy.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow reads many more, some by calling other programs

MAX_PIXELS = 2**26
"""The largest image that is decoded, in pixels (8192 x 8192). A file of a few kB can claim any size."""

BYTES_PER_PIXEL = 16
"""Largest memory that decoding takes per pixel, in bytes, with the copies that Pillow makes on the way."""

GREY_MODES = ("1", "L", "LA", "La")  # in Pillow's names


@dataclass(frozen=True)
class Conversion:
    """The conversion to apply to every image. By default none: all must agree in size and channels.

    Attributes:
        size: side in pixels of the square that every image becomes: the largest centred square is cut out and
            resized (bicubic, antialiased). None keeps the size.
        channels: 1 makes every image grey, 3 RGB. None keeps grey as 1 channel and colour as 3.

    Raises:
        InputError: for a value that no image can have.
    """

    size: int | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not (self.size >= 1 and self.size**2 <= MAX_PIXELS):
            raise InputError(f"size must be 1 to {int(MAX_PIXELS**0.5)} pixels, got {self.size}")
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels must be 1 (grey) or 3 (colour), got {self.channels}")

    def convert(self, pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Return an image, uint8 [C, H, W], with the options applied; name is for messages."""
        if self.keeps(pixels.shape):
            return pixels
        with reading(name):
            channels_last = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
            image = Image.fromarray(channels_last)
            if self.channels is not None:
                image = image.convert("L" if self.channels == 1 else "RGB")
            if self.size is not None and image.size != (self.size, self.size):
                image = ImageOps.fit(image, (self.size, self.size), method=Image.Resampling.BICUBIC)
            return _to_array(image)

    def keeps(self, shape: tuple[int, ...]) -> bool:
        """Say whether images of this shape (C, H, W) stay as they are."""
        channels, height, width = shape
        return self.channels in (None, channels) and (self.size is None or self.size == height == width)


def decode(encoded: bytes | Path, name: str) -> NDArray[np.uint8]:
    """Decode an image, given as bytes or as a path, to uint8 [C, H, W]; name is for messages.

    The first frame of several; turned upright by its EXIF orientation; transparent parts over white; of 16
    bits per channel the high 8; palette, CMYK and the like to RGB. Colour profiles are ignored.

    Raises:
        InputError: for anything but a whole PNG, JPEG, WebP, BMP or TIFF image of at most MAX_PIXELS, and for
            32-bit and float pixels, whose range nothing states.
    """
    file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    with reading(name), Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:  # the header is read, the pixels are not yet
            raise InputError(
                f"{name} has {width} x {height} pixels, more than the {MAX_PIXELS} that are decoded; "
                "scale it down"
            )
        if image.mode in ("I", "F"):
            raise InputError(f"{name} has 32-bit pixels, whose range is unknown; save it with 8 or 16 bits")
        with _IN_HAND.holding(width * height):
            ImageOps.exif_transpose(image, in_place=True)
            return _to_array(_to_grey_or_rgb(image))


class PixelsInHand:
    """Lets several threads decode at once as long as their images are not too large together.

    Args:
        most: pixels of all of them. A larger image has to be alone.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for so many more pixels, and hold it until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + pixels <= self._most)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


_IN_HAND = PixelsInHand(max(MAX_PIXELS, physical_memory() // 8 // BYTES_PER_PIXEL))
"""Bound on the pixels that all threads hold: small files can all claim the most. A GiB, or 1/8 of memory."""


def encoded_size(encoded: bytes | Path, name: str) -> tuple[int, int]:
    """Return the (width, height) that the header of an encoded image states; name is for messages.

    Raises:
        InputError: for anything that does not begin as a PNG, JPEG, WebP, BMP or TIFF image.
    """
    file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    with reading(name), Image.open(file, formats=FORMATS) as image:
        return image.size


def _to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return a grey or RGB image as [C, H, W]."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert any image of 1, 8 or 16 bits per channel to Pillow's mode L or RGB."""
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255. The high byte is what it takes of 16-bit colour.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.has_transparency_data:
        # Dropping alpha would uncover colours that nobody sees. White is what such pictures are viewed on.
        visible = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), visible)
    return image.convert(mode)
