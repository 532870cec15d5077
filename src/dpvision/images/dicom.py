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

from dpvision.images.conversion import MAX_PIXELS, Deep, scaled
from dpvision.images.files import check_regular, reading
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
    window of the file says which of them to show (DICOM PS3.3, C.11.2.1), and the photometric interpretation
    whether low ones are bright.

    Raises:
        InputError: it is damaged, compressed in a way that pydicom has no decoder for, or has several frames
            and the first was not asked for; pydicom is not installed.
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
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    with reading(name):
        array = pixel_array(dataset, index=0 if frames > 1 else None)
        palette = dataset.PhotometricInterpretation == "PALETTE COLOR"
        if palette:
            array = apply_color_lut(array, dataset)
        if array.shape[:2] != (height, width):
            raise InputError(f"{name} has other pixels than its header says; it is damaged: replace it")
        if array.ndim == 3:
            channels_first = array.transpose(2, 0, 1)
            return (channels_first >> 8 if array.dtype == np.uint16 else channels_first).astype(np.uint8)
        values = np.asarray(apply_modality_lut(array, dataset), dtype=np.float64)[None]
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
    """Return what a grey image shows: by its window, or, of 8 bits, as it is."""
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    has_window = center is not None and width is not None and width >= 1
    few_bits = int(dataset.BitsStored) <= 8 and not int(dataset.PixelRepresentation)
    if has_window:
        assert center is not None
        assert width is not None
        shown = _through_window(values, center, width, str(dataset.get("VOILUTFunction", "LINEAR")))
    elif few_bits:
        shown = stored[None].astype(np.uint8)
    else:
        low, high = values.min(), values.max()
        shown = scaled(values, low, high if high > low else low + 1)
    shown = 255 - shown if inverted else shown
    return shown if few_bits and not has_window else Deep(values, shown, has_window, inverted)


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
        return np.rint(255 / (1 + np.exp(-4 * (values - center) / width))).astype(np.uint8)
    if function == "LINEAR_EXACT" or width == 1:
        return scaled(values, center - width / 2, center + width / 2)
    middle, half = center - 0.5, (width - 1) / 2
    return scaled(values, middle - half, middle + half)
