"""Real DICOM files, made anew: for the fuzzer to start from, and for tests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXPLICIT = "1.2.840.10008.1.2.1"
STORED = np.linspace(0, 4095, 48).astype(np.uint16).reshape(6, 8)


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
