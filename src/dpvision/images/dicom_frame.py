"""Decode a frame of a DICOM file, by a decoder of pydicom, once its own header was seen."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpvision.images.conversion import by_strips
from dpvision.images.files import reading
from dpvision.privacy.errors import InputError

JPEG, JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
"""What frames begin with. JPEG-LS begins as JPEG does."""

STARTS_OF_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG after which the size is said; 0xF7 is that of JPEG-LS."""

WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
"""Markers of JPEG that stand alone."""


def first_frame(dataset: Any, size: tuple[int, int], name: str) -> NDArray[Any]:
    """Decode the first frame, [H, W] or [H, W, 3] in RGB.

    Args:
        dataset: as pydicom reads it.
        size: (W, H), as its header states.
        name: for messages.

    Raises:
        InputError: it is damaged, or takes a decoder that is missing.
    """
    with reading(name):
        samples = int(dataset.get("SamplesPerPixel") or 1)
        frames = int(dataset.get("NumberOfFrames") or 1)
    decoder = _decoder(dataset, name)
    _check_header(dataset, frames, (*size, samples), name)
    with reading(name):
        try:
            # Raw: to make RGB of all of it at a time would take 30 bytes a pixel.
            array, found = decoder.as_array(dataset, index=0 if frames > 1 else None, raw=True)
        except RuntimeError as error:  # whose message is the list of what each decoder says
            reason = str(error).partition("\n")[2].strip().partition("\n")[0] or str(error)
            missing = _missing(decoder)
            raise InputError(
                f"{name} cannot be read ({reason}); it may be damaged: replace or remove it"
                + (f", or try another decoder: {missing}" if missing else "")
            ) from error
        colours = str(found["photometric_interpretation"])
        if array.shape[:2] != size[::-1]:
            raise InputError(f"{name} has other pixels than its header says; it is damaged: replace it")
        return _to_rgb(array) if colours in ("YBR_FULL", "YBR_FULL_422") else array


def _decoder(dataset: Any, name: str) -> Any:
    from pydicom.pixels.decoders.base import get_decoder

    with reading(name):
        syntax = dataset.file_meta.TransferSyntaxUID
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError as error:
            raise InputError(
                f"{name} is stored as {syntax.name}, which nothing here decodes; save it uncompressed"
            ) from error
        available = decoder.is_available
    if not available:
        raise InputError(
            f"{name} is stored as {syntax.name}, which takes another decoder to read: {_missing(decoder)}"
        )
    return decoder


def _missing(decoder: Any) -> str:
    """Say what to install for more decoders of the kind; "" where there are none."""
    missing = " ".join(decoder.missing_dependencies)
    if "gdcm" in missing:  # not pylibjpeg-libjpeg, whose licence is the GPL
        return "pip install python-gdcm"
    return "pip install pylibjpeg pylibjpeg-openjpeg" if "openjpeg" in missing else ""


def _check_header(dataset: Any, frames: int, expected: tuple[int, int, int], name: str) -> None:
    """Raise InputError where a frame is compressed and its own header says no (width, height, samples) as
    expected: decoders believe that one, which may claim any size in a few bytes.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == RLELossless:  # which has no header of its own
        return
    with reading(name):
        found = _stated(get_frame(dataset.PixelData, 0, number_of_frames=frames))
    if found != expected:
        raise InputError(f"{name} has other pixels than its header says; it is damaged: replace it")


def _stated(frame: bytes) -> tuple[int, int, int]:
    """Return the (width, height, samples) that a frame of JPEG, JPEG-LS or JPEG 2000 begins with."""
    if frame.startswith(JPEG_2000):  # ISO/IEC 15444-1, A.5.1
        right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
        (samples,) = struct.unpack_from(">H", frame, 40)
        return right - left, bottom - top, samples
    if not frame.startswith(JPEG):
        raise ValueError("a frame is neither JPEG nor JPEG 2000")
    for marker, at in _segments(frame):
        if marker in STARTS_OF_FRAMES:  # ISO/IEC 10918-1, B.2.2
            height, width, samples = struct.unpack_from(">HHB", frame, at + 3)
            return width, height, samples
    raise ValueError("a frame does not state its size")


def _segments(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yield the markers of a JPEG file, each with the place behind it. Bytes in between are passed over."""
    at = len(JPEG)
    while (at := frame.find(b"\xff", at)) >= 0:
        at += 1
        marker = frame[at]
        if marker in (0x00, 0xFF):
            continue
        at += 1
        yield marker, at
        if marker not in WITHOUT_LENGTH:
            at += max(2, int.from_bytes(frame[at : at + 2], "big"))


def _to_rgb(array: NDArray[Any]) -> NDArray[Any]:
    from pydicom.pixels.processing import convert_color_space

    planes = array.transpose(2, 0, 1)
    out = np.empty(planes.shape, dtype=array.dtype)
    by_strips(
        lambda strip: convert_color_space(strip.transpose(1, 2, 0), "YBR_FULL", "RGB").transpose(2, 0, 1),
        planes,
        out,
    )
    return out.transpose(1, 2, 0)
