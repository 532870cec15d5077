"""MNIST's IDX files (yann.lecun.com/exdb/mnist, "FILE FORMATS"): train-* and t10k-*, plain or gzip."""

from __future__ import annotations

import gzip
import math
import re
import struct
from collections import Counter
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpvision.images.arrays import check_same_length, labels_from_array, numbered_classes, pixels_from_array
from dpvision.images.decode import Conversion
from dpvision.images.files import SPLIT_WORDS, NoLabelsError, check_regular, check_unpacks, reading
from dpvision.images.images import Images
from dpvision.privacy.errors import InputError

FILE_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")

PIECE = 2**20  # bytes read at once

UNSIGNED_BYTE = 0x08  # the type code in the third byte of the magic number


def recognises(path: Path) -> bool:
    """Whether path is a folder with files called train-images-idx3-ubyte, t10k-labels-idx1-ubyte.gz, …"""
    return path.is_dir() and bool(_files(path))


def splits(path: Path) -> dict[str, Path]:
    """The splits in the folder, each with its file of images."""
    found = {split: file for (split, kind), file in _files(path).items() if kind == "images"}
    if not found:
        raise InputError(f"{path} has IDX labels but no images; add train-images-idx3-ubyte to the folder")
    return found


def read(path: Path, split: str, conversion: Conversion, labelled: bool) -> Images:
    """One split of the folder; classes are numbered."""
    images_file = splits(path)[split]
    label_files = {s: file for (s, kind), file in _files(path).items() if kind == "labels"}
    if labelled and split not in label_files:
        raise NoLabelsError(
            f"{images_file} has no labels beside it; add {images_file.name.replace('images', 'labels')}"
        )
    pixels, stored = pixels_from_array(_read_idx(images_file, dimensions=3), conversion, str(images_file))
    if not labelled:
        return Images(pixels, None, (), str(path), stored=stored)
    labels = {
        s: labels_from_array(_read_idx(file, dimensions=1), str(file)) for s, file in label_files.items()
    }
    check_same_length(pixels, labels[split], f"{split} of {path}")
    return Images(pixels, labels[split], numbered_classes(labels.values()), str(path), stored=stored)


def sizes(path: Path, split: str) -> Counter[tuple[int, int]]:
    """How many images of a split have which (width, height): in an array, all the same."""
    images = read(path, split, Conversion(), labelled=False)
    _, height, width = images.shape
    return Counter({(width, height): len(images)})


def _files(path: Path) -> dict[tuple[str, str], Path]:
    """The IDX files by (split, "images" or "labels"); a plain file goes before its gzip."""
    found: dict[tuple[str, str], Path] = {}
    with reading(str(path)):
        files = sorted(path.iterdir())  # the plain name sorts first
    for file in files:
        if match := FILE_NAME.fullmatch(file.name):
            found.setdefault((SPLIT_WORDS[match[1]], match[2]), file)
    return found


def _read_idx(file: Path, dimensions: int) -> NDArray[Any]:
    """The unsigned bytes in an IDX file: magic number, big-endian sizes, then the bytes, and no more."""
    check_regular(file)
    with reading(str(file)), gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        magic, *shape = struct.unpack(f">{1 + dimensions}I", stream.read(4 + 4 * dimensions))
        if magic != UNSIGNED_BYTE << 8 | dimensions:
            raise InputError(
                f"{file} does not begin as IDX of unsigned bytes with {dimensions} dimensions; replace it"
            )
        claimed = math.prod(shape)
        # Labels become eight bytes each.
        check_unpacks(claimed if dimensions == 3 else 8 * claimed, file.stat().st_size, f"{file} unpacked")
        # One more than there should be, to see what is too much, and so that gzip reaches its checksum.
        content = _read_at_most(stream, claimed + 1)
    if len(content) != claimed:
        raise InputError(
            f"{file} does not hold the {claimed} bytes that its header states; it is damaged: replace it"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _read_at_most(stream: gzip.GzipFile | BufferedReader, count: int) -> bytearray:
    """As many bytes as there are, up to count; no memory is taken for those that only the header claims."""
    content = bytearray()
    while len(content) < count and (piece := stream.read(min(count - len(content), PIECE))):
        content += piece
    return content
