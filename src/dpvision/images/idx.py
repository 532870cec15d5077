"""MNIST's IDX files (yann.lecun.com/exdb/mnist, "FILE FORMATS"): train-* and t10k-*, plain or gzip."""

from __future__ import annotations

import gzip
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpvision.images.array_stream import ImageArray, Stream, Values
from dpvision.images.arrays import check_same_length, labels_from_array
from dpvision.images.class_list import numbered_labels
from dpvision.images.data_set import DataSet
from dpvision.images.files import (
    SPLIT_WORDS,
    NoLabelsError,
    check_expands,
    check_regular,
    check_unpacks,
    reading,
)
from dpvision.images.images import Images
from dpvision.privacy.errors import InputError

FILE_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")

UNSIGNED_BYTE = 0x08  # the type code in the third byte of the magic number
BYTE = np.dtype(np.uint8)


class Idx(DataSet):
    """A folder of IDX files; classes are numbered."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a folder with files like train-images-idx3-ubyte, t10k-labels-idx1-ubyte.gz."""
        return path.is_dir() and bool(_files(path))

    @cached_property
    def splits(self) -> dict[str, Path]:
        """The splits in the folder, each with its file of images."""
        found = {split: file for (split, kind), file in _files(self.path).items() if kind == "images"}
        if not found:
            raise InputError(
                f"{self.path} has IDX labels but no images; add train-images-idx3-ubyte to the folder"
            )
        return found

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split of the folder."""
        images_file, source = self.splits[split], str(self.path)
        label_files = {s: file for (s, kind), file in _files(self.path).items() if kind == "labels"}
        if labelled and split not in label_files:
            raise NoLabelsError(
                f"{images_file} has no labels beside it; add {images_file.name.replace('images', 'labels')}"
            )
        with _opened(images_file, dimensions=3) as (shape, stream):
            found = ImageArray(BYTE, shape, str(images_file)).read(stream, self.choices.conversion)
        if not labelled:
            return Images(found.pixels, None, (), source, stored=found.stored)
        labels = {s: _labels(file) for s, file in label_files.items()}
        check_same_length(found.pixels, labels[split], f"{split} of {source}")
        of_images, class_names = numbered_labels(labels, split, self.choices.classes, source)
        return Images(found.pixels, of_images, class_names, source, stored=found.stored)

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of a split by size (width, height): in an array, all have the same."""
        file = self.splits[split]
        with _opened(file, dimensions=3) as (shape, _):
            _, height, width = ImageArray(BYTE, shape, str(file)).image_shape
            return Counter({(width, height): shape[0]})


def _files(path: Path) -> dict[tuple[str, str], Path]:
    """Return the IDX files by (split, "images" or "labels"); a plain file goes before its gzip."""
    found: dict[tuple[str, str], Path] = {}
    with reading(str(path)):
        files = sorted(path.iterdir())  # the plain name sorts first
    for file in files:
        if match := FILE_NAME.fullmatch(file.name):
            found.setdefault((SPLIT_WORDS[match[1]], match[2]), file)
    return found


def _labels(file: Path) -> NDArray[np.int64]:
    """Read labels, int64 [N]."""
    with _opened(file, dimensions=1) as (shape, stream):
        labels = np.empty(shape, dtype=BYTE)
        values = Values(stream, len(labels), str(file))
        values.fill(labels)
        values.check_end()
    return labels_from_array(labels, str(file))


@contextmanager
def _opened(file: Path, dimensions: int) -> Iterator[tuple[tuple[int, ...], Stream]]:
    """Yield the shape that the header of an IDX file of unsigned bytes states, judged, and what comes after
    it.

    The header is a magic number and big-endian sizes; then there are the bytes, and no more.
    """
    check_regular(file)
    with ExitStack() as opened:
        with reading(str(file)):
            open_file = gzip.open if file.suffix == ".gz" else open
            stream = opened.enter_context(open_file(file, "rb"))
            magic, *shape = struct.unpack(f">{1 + dimensions}I", stream.read(4 + 4 * dimensions))
        if magic != UNSIGNED_BYTE << 8 | dimensions:
            raise InputError(
                f"{file} does not begin as IDX of unsigned bytes with {dimensions} dimensions; replace it"
            )
        claimed, stored, what = math.prod(shape), file.stat().st_size, f"{file} unpacked"
        if dimensions == 3:
            check_expands(claimed, stored, what)  # whether there is room for images, whoever reads them asks
        else:
            check_unpacks(8 * claimed, stored, what)  # labels become eight bytes each
        yield tuple(shape), stream
