"""Say what a file is that cannot be read as an image, by its first bytes."""

from __future__ import annotations

from pathlib import Path

FIRST_BYTES = 264

KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG", "a damaged PNG"),
    (0, b"\xff\xd8\xff", "a damaged JPEG"),
    (8, b"WEBP", "a damaged WebP image"),
    (0, b"BM", "a damaged BMP"),
    (0, b"II*\x00", "a damaged TIFF"),
    (0, b"MM\x00*", "a damaged TIFF"),
    (0, b"GIF8", "a GIF"),
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, which was not downloaded"),
    (128, b"DICM", "a DICOM file"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftyp", "a video"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
)
"""Where in a file which bytes are, and what it is then; the first that fits."""


def kind_of(encoded: bytes | Path) -> str:
    """Say what begins like this; "a file of an unknown kind" where it cannot be told."""
    if isinstance(encoded, Path):
        with encoded.open("rb") as file:
            start = file.read(FIRST_BYTES)
    else:
        start = encoded[:FIRST_BYTES]
    if not start:
        return "empty"
    for at, signature, kind in KINDS:
        if start[at : at + len(signature)] == signature:
            return kind
    return "a file of an unknown kind"
