"""CIFAR-10 and CIFAR-100 as they are downloaded (cs.toronto.edu/~kriz/cifar.html): binary, or pickles.

A pickle may run any code. These are read by an unpickler that admits what such files hold, arrays of bytes,
lists, dictionaries and texts, and makes the arrays itself.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dpvision.images.array_stream import ImageArray
from dpvision.images.arrays import labels_from_array
from dpvision.images.class_list import indexed_labels, numbered_labels
from dpvision.images.data_set import DataSet
from dpvision.images.files import check_regular, reading
from dpvision.images.images import Images
from dpvision.privacy.errors import InputError, named_option

SIDE, COLOURS = 32, 3
PIXELS = COLOURS * SIDE * SIDE

ROWS_AT_ONCE = 1024
"""Images of a binary file that are read at a time. Of a pickle it is the whole."""

MOST_BYTES = 2**29
"""Largest file that is read, in bytes: all of CIFAR has a third of that."""


@dataclass(frozen=True)
class Kind:
    """One of the archives.

    Attributes:
        files: the names of the files of each split.
        names: that of the file with the classes' names.
        columns: those of labels, the usual one first; in binary files each is a byte before the pixels, in
            the order of ``bytes_``.
        key: of the classes' names in a pickle of names, for each column.
        binary: whether the files are binary, else pickles.
    """

    files: Mapping[str, Sequence[str]]
    names: Sequence[str]
    columns: Sequence[str]
    bytes_: Sequence[str]
    keys: Sequence[str]
    binary: bool


_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]

KINDS = (
    Kind(
        {"train": [f"{name}.bin" for name in _BATCHES], "test": ["test_batch.bin"]},
        ["batches.meta.txt"], ["label"], ["label"], [], True,
    ),
    Kind(
        {"train": _BATCHES, "test": ["test_batch"]},
        ["batches.meta"], ["labels"], [], ["label_names"], False,
    ),
    Kind(
        {"train": ["train.bin"], "test": ["test.bin"]},
        ["fine_label_names.txt", "coarse_label_names.txt"],
        ["fine_labels", "coarse_labels"], ["coarse_labels", "fine_labels"], [], True,
    ),
    Kind(
        {"train": ["train"], "test": ["test"]},
        ["meta", "meta"],
        ["fine_labels", "coarse_labels"], [], ["fine_label_names", "coarse_label_names"], False,
    ),
)  # fmt: skip


class Cifar(DataSet):
    """The folder of one of the archives."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a folder with the files of one of the archives."""
        return path.is_dir() and _kind(path) is not None

    @cached_property
    def splits(self) -> dict[str, list[Path]]:
        """The splits, each with its files.

        Raises:
            InputError: a batch of a split is missing.
        """
        found = {}
        for split, names in self._of.files.items():
            present = [self.path / name for name in names if (self.path / name).is_file()]
            if present and len(present) < len(names):
                missing = ", ".join(name for name in names if not (self.path / name).is_file())
                raise InputError(f"{self.path} lacks {missing} of {split}; complete the download")
            if present:
                found[split] = present
        return found

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of a split by size (width, height): all have the same."""
        return Counter({(SIDE, SIDE): len(self._labels(split))})

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split; CIFAR-100 with its fine labels, unless ``label_column`` says coarse_labels."""
        labels = self._labels(split)
        source, classes = str(self.path), self.choices.classes
        array = ImageArray(np.dtype(np.uint8), (len(labels), COLOURS, SIDE, SIDE), source)
        stream = _Parts(pixels for pixels, _ in self._parts(split))
        found = array.read(stream, self.choices.conversion)
        if not labelled:
            return Images(found.pixels, None, (), source, stored=found.stored)
        names = self._class_names()
        if names is None:
            of_images, class_names = numbered_labels({split: labels}, split, classes, source)
        else:
            of_images, class_names = indexed_labels(labels, split, names, classes, source)
        return Images(found.pixels, of_images, class_names, source, stored=found.stored)

    @cached_property
    def _of(self) -> Kind:
        kind = _kind(self.path)
        assert kind is not None, "this reader was chosen by it"
        return kind

    @cached_property
    def _column(self) -> int:
        """The place of the column of labels."""
        columns, named = list(self._of.columns), self.choices.label_column
        if named is None:
            return 0
        if named not in columns:
            raise InputError(
                f"{self.path} has no column '{named}'; give {named_option('label_column', columns[0])}"
            )
        return columns.index(named)

    def _parts(self, split: str) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        """Yield the pixels [n, 3072] and labels [n] of a split, some at a time."""
        kind, column = self._of, self._of.columns[self._column]
        for file in self.splits[split]:
            if kind.binary:
                yield from _of_binary(file, kind, column)
            else:
                yield _of_pickle(file, column)

    def _labels(self, split: str) -> NDArray[np.int64]:
        """Return the labels [N] of a split."""
        return np.concatenate([labels for _, labels in self._parts(split)])

    def _class_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes; None where their file was not downloaded."""
        kind = self._of
        file = self.path / kind.names[self._column]
        if not file.is_file():
            return None
        if kind.binary:
            with reading(str(file)):
                return tuple(line for line in _content(file).decode().splitlines() if line)
        key = kind.keys[self._column]
        names = unpickled(file).get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{file} does not name the classes under '{key}'; replace it")
        return tuple(names)


class _Parts:
    """A stream of the pixels of a split, of which some are held at a time."""

    def __init__(self, parts: Iterator[NDArray[np.uint8]]) -> None:
        self._parts, self._left = parts, memoryview(b"")

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill the buffer as far as those go that are at hand; return how far that is."""
        if not self._left:
            self._left = np.ascontiguousarray(next(self._parts, np.empty(0, np.uint8))).data.cast("B")
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _kind(path: Path) -> Kind | None:
    """Return the archive whose first file is there. Names like "train" are those of folders too."""
    return next((k for k in KINDS if any((path / names[0]).is_file() for names in k.files.values())), None)


def _size(file: Path) -> int:
    """Return the bytes of a file. InputError where they are too many."""
    check_regular(file)
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"{file} is larger than the {MOST_BYTES >> 20} MiB that are read; replace it")
    return size


def _content(file: Path) -> bytes:
    _size(file)
    with reading(str(file)):
        return file.read_bytes()


def _of_binary(file: Path, kind: Kind, column: str) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    size, row = _size(file), len(kind.bytes_) + PIXELS
    if not size or size % row:
        raise InputError(f"{file} has {size} bytes, no multiple of {row}; it is damaged: replace it")
    at = list(kind.bytes_).index(column)
    for start in range(0, size, ROWS_AT_ONCE * row):
        with reading(str(file)):
            values = np.fromfile(file, np.uint8, min(ROWS_AT_ONCE * row, size - start), offset=start)
            rows = values.reshape(-1, row)
        yield rows[:, len(kind.bytes_) :], rows[:, at].astype(np.int64)


def _of_pickle(file: Path, column: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    found = unpickled(file)
    pixels, labels = found.get("data"), found.get(column)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise InputError(f"{file} has no images of {COLOURS} x {SIDE} x {SIDE} under 'data'; replace it")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise InputError(f"{file} has not one label for each image under '{column}'; replace it")
    with reading(str(file)):
        array = np.array(labels)
    return pixels, labels_from_array(array, f"'{column}' in {file}")


def unpickled(file: Path) -> dict[str, Any]:
    """Read a pickle of a dictionary of arrays, lists, numbers and texts; no other code of it is run.

    Raises:
        InputError: it is none, or asks for anything else.
    """
    content = _content(file)
    with reading(str(file)):
        found = _Unpickler(io.BytesIO(content), len(content)).load()
        if not isinstance(found, dict):
            raise InputError(f"{file} does not hold a dictionary; replace it")
        return {_text(name): _plain(value) for name, value in found.items()}


class _Unpickler(pickle._Unpickler):
    """Admits arrays of bytes alone, of no more bytes than the file has.

    Python's own, and not the one in C: that makes room for as many objects, or bytes, as an opcode states.
    Python 2 wrote these files: its texts are read as bytes.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }

    def __init__(self, file: io.BytesIO, most: int) -> None:
        super().__init__(file, encoding="bytes")
        self._most = most

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for NumPy's makers of arrays. UnpicklingError for all else."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda kind, shape, dtype: _Array(self._most)
        if module == "numpy" and name == "ndarray":
            return "ndarray"
        if module == "numpy" and name == "dtype":
            return _Dtype
        if (module, name) == ("_codecs", "encode"):  # bytes, as Python 3 writes them by protocol 2
            return lambda text, encoding: str(text).encode("latin-1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no such file holds")


class _Dtype:
    """Stands for a NumPy type, by its name."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = _text(name)

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes, of which there is one here."""


class _Array:
    """Stands for an array of unsigned bytes until its state is there."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.values = np.empty(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or dtype.name not in ("u1", "|u1", "uint8"):
            raise pickle.UnpicklingError("it holds an array that is not of unsigned bytes")
        if not isinstance(content, bytes) or len(content) > self._most:
            raise pickle.UnpicklingError("it holds an array without its bytes")
        self.values = np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _plain(value: Any) -> Any:
    """Return a value of the dictionary: arrays as NumPy's, texts of Python 2 as texts."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, list):
        return [_text(one) if isinstance(one, bytes) else one for one in value]
    return value
