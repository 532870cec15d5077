"""CIFAR-10 and CIFAR-100 as they are downloaded (cs.toronto.edu/~kriz/cifar.html): binary, or pickles.

A pickle may run any code. These are read by an unpickler that admits what such files hold, arrays of bytes,
lists, dictionaries and texts, and makes the arrays itself.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dpvision.images.array_stream import ImageArray
from dpvision.images.arrays import labels_from_array
from dpvision.images.choices import Choices
from dpvision.images.class_list import indexed_labels, numbered_labels
from dpvision.images.files import check_regular, reading
from dpvision.images.images import Images
from dpvision.privacy.errors import InputError, named_option

SIDE, COLOURS = 32, 3
PIXELS = COLOURS * SIDE * SIDE

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


def recognises(path: Path) -> bool:
    """Say whether path is a folder with the files of one of the archives."""
    return path.is_dir() and _kind(path) is not None


def splits(path: Path, choices: Choices) -> dict[str, list[Path]]:
    """Return the splits, each with its files.

    Raises:
        InputError: a batch of a split is missing.
    """
    kind = _of(path)
    found = {}
    for split, names in kind.files.items():
        present = [path / name for name in names if (path / name).is_file()]
        if present and len(present) < len(names):
            missing = ", ".join(name for name in names if not (path / name).is_file())
            raise InputError(f"{path} lacks {missing} of {split}; complete the download")
        if present:
            found[split] = present
    return found


def sizes(path: Path, split: str, choices: Choices) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height): all have the same."""
    pixels, _ = _read(path, split, choices)
    return Counter({(SIDE, SIDE): len(pixels)})


def read(path: Path, split: str, choices: Choices, labelled: bool) -> Images:
    """Read one split; of CIFAR-100 with its 100 fine labels, unless ``label_column`` says coarse_labels."""
    pixels, labels = _read(path, split, choices)
    array = ImageArray(pixels.dtype, pixels.shape, str(path))
    found = array.read(io.BytesIO(pixels.tobytes()), choices.conversion)
    if not labelled:
        return Images(found.pixels, None, (), str(path), stored=found.stored)
    names = _class_names(path, _column(_of(path), path, choices))
    if names is None:
        of_images, class_names = numbered_labels({split: labels}, split, choices.classes, str(path))
    else:
        of_images, class_names = indexed_labels(labels, split, names, choices.classes, str(path))
    return Images(found.pixels, of_images, class_names, str(path), stored=found.stored)


def _kind(path: Path) -> Kind | None:
    """Return the archive whose first file is there. Names like "train" are those of folders too."""
    return next((k for k in KINDS if any((path / names[0]).is_file() for names in k.files.values())), None)


def _of(path: Path) -> Kind:
    kind = _kind(path)
    assert kind is not None, "this reader was chosen by it"
    return kind


def _column(kind: Kind, path: Path, choices: Choices) -> int:
    """Return the place of the column of labels."""
    if choices.label_column is None:
        return 0
    if choices.label_column not in kind.columns:
        raise InputError(
            f"{path} has no column '{choices.label_column}'; give "
            f"{named_option('label_column', kind.columns[0])}"
        )
    return list(kind.columns).index(choices.label_column)


def _read(path: Path, split: str, choices: Choices) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images [N, 3, 32, 32] and labels [N] of a split."""
    kind = _of(path)
    column = kind.columns[_column(kind, path, choices)]
    parts = [
        (_of_binary if kind.binary else _of_pickle)(file, kind, column)
        for file in splits(path, choices)[split]
    ]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return pixels.reshape(-1, COLOURS, SIDE, SIDE), labels


def _content(file: Path) -> bytes:
    check_regular(file)
    if file.stat().st_size > MOST_BYTES:
        raise InputError(f"{file} is larger than the {MOST_BYTES >> 20} MiB that are read; replace it")
    with reading(str(file)):
        return file.read_bytes()


def _of_binary(file: Path, kind: Kind, column: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content, row = _content(file), len(kind.bytes_) + PIXELS
    if not content or len(content) % row:
        raise InputError(f"{file} has {len(content)} bytes, no multiple of {row}; it is damaged: replace it")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, row)
    labels = rows[:, list(kind.bytes_).index(column)]
    return rows[:, len(kind.bytes_) :], labels.astype(np.int64)


def _of_pickle(file: Path, kind: Kind, column: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    found = unpickled(file)
    pixels, labels = found.get("data"), found.get(column)
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
        raise InputError(f"{file} has no images of {COLOURS} x {SIDE} x {SIDE} under 'data'; replace it")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise InputError(f"{file} has not one label for each image under '{column}'; replace it")
    with reading(str(file)):
        array = np.array(labels)
    return pixels, labels_from_array(array, f"'{column}' in {file}")


def _class_names(path: Path, column: int) -> tuple[str, ...] | None:
    """Return the names of the classes; None where their file was not downloaded."""
    kind = _of(path)
    file = path / kind.names[column]
    if not file.is_file():
        return None
    if kind.binary:
        with reading(str(file)):
            return tuple(line for line in _content(file).decode().splitlines() if line)
    names = unpickled(file).get(kind.keys[column])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file} does not name the classes under '{kind.keys[column]}'; replace it")
    return tuple(names)


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
