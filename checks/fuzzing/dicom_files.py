"""Real DICOM files, made anew: for the fuzzer to start from, and for tests."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EXPLICIT = "1.2.840.10008.1.2.1"
JPEG_BASELINE, JPEG_EXTENDED, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, JPEG_2000_HT = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 70, 80, 90, 201)
)
MPEG2 = "1.2.840.10008.1.2.4.100"
STORED = np.linspace(0, 4095, 48).astype(np.uint16).reshape(6, 8)


def compressed(frame: bytes, syntax: str, pixels: NDArray[Any], **header: Any) -> bytes:
    """A DICOM file with a frame of pixels like these that is compressed."""
    from pydicom.encaps import encapsulate

    return encoded(pixels, syntax=syntax, PixelData=encapsulate([frame]), **header)


def run_lengths(pixels: NDArray[Any], **header: Any) -> bytes:
    """A DICOM file of these pixels, compressed by pydicom."""
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(encoded(pixels, **header)))
    dataset.compress("1.2.840.10008.1.2.5")
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def frame_of(pixels: NDArray[Any], image_format: str, **options: Any) -> bytes:
    """A frame of these pixels, compressed by Pillow."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, image_format, **options)
    return out.getvalue()


def table(entries: Sequence[int], first: int, bits: int) -> Any:
    """A VOI LUT Sequence of one table."""
    from pydicom import Dataset, Sequence

    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, dtype="<u2").tobytes())
    return Sequence([item])


def encoded(pixels: NDArray[Any] = STORED, **header: Any) -> bytes:
    """A DICOM file of these pixels, [H, W], [H, W, 3] or frames [F, H, W]."""
    import pydicom  # here: it is an extra

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = header.pop("syntax", EXPLICIT)
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "secret-4711"
    frames = pixels.ndim == 3 and pixels.shape[2] != 3
    height, width = pixels.shape[1:] if frames else pixels.shape[:2]
    dataset.Rows, dataset.Columns = height, width
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 and not frames else 1
    dataset.PhotometricInterpretation = "RGB" if dataset.SamplesPerPixel == 3 else "MONOCHROME2"
    if dataset.SamplesPerPixel == 3:
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored = bits, 12 if pixels.dtype == np.uint16 else bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in header.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()
