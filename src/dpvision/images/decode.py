"""Decode one encoded image of any kind to one uint8 array."""

from __future__ import annotations

import io
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dpvision.images.files import check_regular, physical_memory, reading
from dpvision.images.kinds import kind_of
from dpvision.privacy.errors import InputError, named_option

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow reads many more, some by calling other programs

MAX_PIXELS = 2**26
"""The largest image that is decoded, in pixels (8192 x 8192). A file of a few kB can claim any size."""

BYTES_PER_PIXEL = 16
"""Largest memory that decoding takes per pixel, in bytes, with the copies that Pillow makes on the way."""

GREY_MODES = ("1", "L", "LA", "La")  # in Pillow's names


Resize = Literal["crop", "pad", "stretch"]


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

    def convert(self, values: NDArray[Any], name: str) -> NDArray[np.uint8]:
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
            return _to_array(image)

    def keeps(self, shape: tuple[int, ...]) -> bool:
        """Say whether images of this shape (C, H, W) stay as they are."""
        channels, height, width = shape
        return self.channels in (None, channels) and (self.size is None or self.size == height == width)

    def _square(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        bicubic = Image.Resampling.BICUBIC
        if self.resize == "stretch":
            return image.resize(size, bicubic)
        return (ImageOps.pad if self.resize == "pad" else ImageOps.fit)(image, size, method=bicubic)

    def _in_eight_bits(self, values: NDArray[Any], name: str) -> NDArray[np.uint8]:
        if self.value_range is None:
            if values.dtype == np.float64:
                raise InputError(
                    f"{name} has 32-bit pixels, whose range is unknown; say it with "
                    f"{named_option('value_range', '0:4095')} or as it is, or save it with 8 or 16 bits"
                )
            return high_bits(values)
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
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        return np.rint(scaled.clip(0, 255)).astype(np.uint8)


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


def high_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the high 8 bits of values of 16, and values of 8 as they are."""
    return (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values


def decode(encoded: bytes | Path, name: str, first_frame: bool = False) -> NDArray[Any]:
    """Decode an image, given as bytes or as a path, to its values [C, H, W]: uint8; uint16 where it has 16
    bits; float64 where it has 32. name is for messages.

    Of several frames the first, if that is asked for; turned upright by its EXIF orientation; transparent
    parts over white; of 16 bits of a colour only the high 8, which is all that Pillow reads of them; palette,
    CMYK and the like to RGB. Colour profiles are ignored.

    Raises:
        InputError: for anything but a whole PNG, JPEG, WebP, BMP or TIFF image of at most MAX_PIXELS, and for
            one with several frames.
    """
    with _opened(encoded, name) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:  # the header is read, the pixels are not yet
            raise InputError(
                f"{name} has {width} x {height} pixels, more than the {MAX_PIXELS} that are decoded; "
                "scale it down"
            )
        if not first_frame and _has_more_frames(image):
            raise InputError(
                f"{name} has several frames or pages; take the first of each file, with "
                f"{named_option('first_frame', True)}, or save them one by one"
            )
        of_16_bits = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        with _IN_HAND.holding(width * height):
            ImageOps.exif_transpose(image, in_place=True)
            values = values_of(image)
            return values.astype(np.uint16) << 8 if of_16_bits and len(values) == 3 else values


def _has_more_frames(image: Image.Image) -> bool:
    """Say whether there are several frames. Of a JPEG others are previews and maps that cameras add."""
    if image.format in ("JPEG", "MPO"):
        return False
    try:
        image.seek(1)
    except EOFError:
        return False
    finally:
        image.seek(0)
    return True


def values_of(image: Image.Image) -> NDArray[Any]:
    """Return the values [C, H, W] of an image that is upright; see `decode`."""
    if image.mode in ("I", "F"):
        return np.asarray(image, dtype=np.float64)[None]
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[None]
    return _to_array(_to_grey_or_rgb(image))


@contextmanager
def _opened(encoded: bytes | Path, name: str) -> Iterator[Image.Image]:
    """Open an image; where it is none, say what it is."""
    if isinstance(encoded, Path):
        check_regular(encoded)
    with reading(name):
        try:
            image = Image.open(
                io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=FORMATS
            )
        except UnidentifiedImageError as error:
            raise InputError(
                f"{name} is not an image that can be read ({', '.join(FORMATS)}): it is {kind_of(encoded)}; "
                "convert or remove it"
            ) from error
        with image:
            yield image


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
    with _opened(encoded, name) as image:
        return image.size


def count_sizes(images: Iterable[tuple[bytes | Path, str]]) -> Counter[tuple[int, int]]:
    """Count encoded images, each with its name, by the size (width, height) that their headers state. Those
    without are left aside, for whoever decodes them says what is wrong with all, unless none has one:
    InputError.
    """
    found: Counter[tuple[int, int]] = Counter()
    wrong = None
    for encoded, name in images:
        try:
            found[encoded_size(encoded, name)] += 1
        except InputError as error:
            wrong = wrong or error
    if wrong and not found:
        raise wrong
    return found


def _to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return a grey or RGB image as [C, H, W]."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert any image of 1 or 8 bits per channel to Pillow's mode L or RGB."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.has_transparency_data:
        # Dropping alpha would uncover colours that nobody sees. White is what such pictures are viewed on.
        visible = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), visible)
    return image.convert(mode)
