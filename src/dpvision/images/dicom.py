"""Decode DICOM files by pydicom, an extra. Of a file's header only what says how its pixels look is used, and
none of it is kept, but for the patient's id where that was asked for.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpvision.images import dicom_frame
from dpvision.images.conversion import MAX_PIXELS, Deep, by_strips, scaled
from dpvision.images.files import check_regular, reading
from dpvision.images.in_hand import IN_HAND
from dpvision.privacy.errors import InputError, named_option

PREAMBLE = 128
MAGIC = b"DICM"

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""The transfer syntax of files that are unpacked whole before anything of them is read."""


def is_one(encoded: bytes | Path) -> bool:
    """Say whether an encoded image begins as a DICOM file."""
    if isinstance(encoded, bytes):
        start = encoded[: PREAMBLE + len(MAGIC)]
    else:
        check_regular(encoded)
        with reading(str(encoded)), encoded.open("rb") as file:
            start = file.read(PREAMBLE + len(MAGIC))
    return start[PREAMBLE:] == MAGIC


def decode(encoded: bytes | Path, name: str, first_frame: bool = False) -> NDArray[np.uint8] | Deep:
    """Decode a DICOM file to values [C, H, W]: uint8 of colour, or of grey with 8 bits; else `Deep`.

    Grey values are those of the modality (its slope and intercept applied, say Hounsfield units); the first
    window of the file says which of them to show (DICOM PS3.3, C.11.2.1), or, where there is none, its first
    table; and the photometric interpretation whether low ones are bright.

    Raises:
        InputError: it is damaged, takes a decoder that is missing, or has several frames and the first was
            not asked for; pydicom is not installed.
    """
    dataset = _dataset(encoded, name)
    width, height = _size(dataset, name)
    with reading(name):
        frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1 and not first_frame:
        raise InputError(
            f"{name} has {frames} frames; take the first of each file, with "
            f"{named_option('first_frame', True)}, or save them one by one"
        )
    with IN_HAND.holding(width * height):
        array = dicom_frame.first_frame(dataset, (width, height), name)
        with reading(name):
            return _values(dataset, array)


def _values(dataset: Any, array: NDArray[Any]) -> NDArray[np.uint8] | Deep:
    """Return the values [C, H, W] of the pixels of a frame, as `decode` does."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        array = apply_color_lut(array, dataset)
    if array.ndim == 3:
        channels_first = array.transpose(2, 0, 1)
        return (channels_first >> 8 if array.dtype == np.uint16 else channels_first).astype(np.uint8)
    values = by_strips(lambda strip: apply_modality_lut(strip, dataset), array, np.empty(array.shape))[None]
    return _shown(dataset, array, values)


def encoded_size(encoded: bytes | Path, name: str) -> tuple[int, int]:
    """Return the (width, height) that the header of a DICOM file states."""
    return _size(_dataset(encoded, name), name)


def patient_of(file: Path) -> str:
    """Return the patient's id in the header of a DICOM file: private, and never shown. It is "" where there
    is none, or no header that can be read, of which whoever decodes the file tells.
    """
    with suppress(InputError), warnings.catch_warnings(action="ignore"), reading(str(file)):
        if is_one(file):
            return str(_dataset(file, str(file)).get("PatientID") or "")
    return ""


def _dataset(encoded: bytes | Path, name: str) -> Any:
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise InputError(
            f"{name} is a DICOM file, which takes pydicom to read: pip install 'dpvision[dicom]'"
        ) from error
    with reading(name):
        content = encoded if isinstance(encoded, bytes) else encoded.read_bytes()
    if DEFLATED in content:
        raise InputError(f"{name} is deflated, and could unpack to any size; save it without that")
    with reading(name):
        return dcmread(io.BytesIO(content))


def _size(dataset: Any, name: str) -> tuple[int, int]:
    """Return the (width, height) of a frame, judged before pixels are unpacked."""
    with reading(name):
        width, height = int(dataset.Columns), int(dataset.Rows)
        samples = int(dataset.get("SamplesPerPixel") or 1)
    if not (width >= 1 and height >= 1 and samples in (1, 3)):
        raise InputError(
            f"{name} has {width} x {height} pixels of {samples} colours; it is damaged: replace it"
        )
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width} x {height} pixels, more than the {MAX_PIXELS} that are decoded; scale it "
            "down"
        )
    return width, height


def _shown(dataset: Any, stored: NDArray[Any], values: NDArray[np.float64]) -> NDArray[np.uint8] | Deep:
    """Return what a grey image shows: by its window or its table, or, of 8 bits, as it is."""
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    table = dataset.get("VOILUTSequence")
    says_what = True
    few_bits = int(dataset.BitsStored) <= 8 and not int(dataset.PixelRepresentation)
    if center is not None and width is not None and width >= 1:
        shown = _through_window(values, center, width, str(dataset.get("VOILUTFunction", "LINEAR")))
    elif table:
        little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
        shown = _through_table(values, table[0], little_endian)
    elif few_bits:
        says_what, shown = False, stored[None].astype(np.uint8)
    else:
        low, high = values.min(), values.max()
        says_what, shown = False, scaled(values, low, high if high > low else low + 1)
    shown = 255 - shown if inverted else shown
    return shown if few_bits and not says_what else Deep(values, shown, says_what, inverted)


def _first(value: Any) -> float | None:
    """Return a number, or the first of several; None where there is none."""
    if value is None or value == "":
        return None
    several = isinstance(value, Sequence) and not isinstance(value, str)
    number = float(value[0] if several else value)
    return number if math.isfinite(number) else None


def _through_window(
    values: NDArray[np.float64], center: float, width: float, function: str
) -> NDArray[np.uint8]:
    """Return what a window shows, as 0 to 255: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    if function == "SIGMOID":
        return by_strips(
            lambda strip: np.rint(255 / (1 + np.exp(-4 * (strip - center) / width))),
            values,
            np.empty(values.shape, dtype=np.uint8),
        )
    if function == "LINEAR_EXACT" or width == 1:
        return scaled(values, center - width / 2, center + width / 2)
    middle, half = center - 0.5, (width - 1) / 2
    return scaled(values, middle - half, middle + half)


def _through_table(values: NDArray[np.float64], table: Any, little_endian: bool) -> NDArray[np.uint8]:
    """Return what a table of a VOI LUT Sequence shows, as 0 to 255: DICOM PS3.3, C.11.2.1.1. (That of pydicom
    3.0 counts the entries of a table of 8 bits modulo 256.)
    """
    count, first, bits = table.LUTDescriptor
    data = table.LUTData
    words = "<u2" if little_endian else ">u2"
    entries = np.frombuffer(data, dtype=words) if isinstance(data, bytes) else np.asarray(data)
    if not 8 <= bits <= 16 or len(entries) != (count or 2**16):
        raise ValueError("its table has other entries than it says")
    levels = scaled(entries[None], 0, 2**bits - 1)[0]
    return by_strips(
        lambda strip: levels[np.rint(strip - first).clip(0, len(levels) - 1).astype(np.int64)],
        values,
        np.empty(values.shape, dtype=np.uint8),
    )
