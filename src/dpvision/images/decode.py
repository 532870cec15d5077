"""Decode one encoded image of any kind to one uint8 array."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dpvision.images import dicom
from dpvision.images.conversion import MAX_PIXELS, Deep, to_array
from dpvision.images.files import check_regular, reading
from dpvision.images.in_hand import IN_HAND
from dpvision.images.kinds import kind_of
from dpvision.privacy.errors import InputError, named_option

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # Pillow reads many more, some by calling other programs

GREY_MODES = ("1", "L", "LA", "La")  # in Pillow's names


def decode(encoded: bytes | Path, name: str, first_frame: bool = False) -> NDArray[Any] | Deep:
    """Decode an image, given as bytes or as a path, to its values [C, H, W]: uint8; uint16 where it has 16
    bits; float64 where it has 32; `Deep` where it is a DICOM file of more than 8. name is for messages.

    Of several frames the first, if that is asked for; turned upright by its EXIF orientation; transparent
    parts over white; of 16 bits of a colour only the high 8, which is all that Pillow reads of them; palette,
    CMYK and the like to RGB. Colour profiles are ignored.

    Raises:
        InputError: for anything but a whole PNG, JPEG, WebP, BMP or TIFF image of at most MAX_PIXELS, and for
            one with several frames.
    """
    if dicom.is_one(encoded):
        return dicom.decode(encoded, name, first_frame)
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
        with IN_HAND.holding(width * height):
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
    return to_array(_to_grey_or_rgb(image))


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
                f"{name} is not an image that can be read: it is {kind_of(encoded)}; convert it to one of "
                f"{', '.join(FORMATS)}, or remove it"
            ) from error
        with image:
            yield image


def encoded_size(encoded: bytes | Path, name: str) -> tuple[int, int]:
    """Return the (width, height) that the header of an encoded image states; name is for messages.

    Raises:
        InputError: for anything that does not begin as a PNG, JPEG, WebP, BMP or TIFF image.
    """
    if dicom.is_one(encoded):
        return dicom.encoded_size(encoded, name)
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


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert any image of 1 or 8 bits per channel to Pillow's mode L or RGB."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if image.has_transparency_data:
        # Dropping alpha would uncover colours that nobody sees. White is what such pictures are viewed on.
        visible = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), visible)
    return image.convert(mode)
