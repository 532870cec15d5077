"""NumPy archives: MedMNIST's train_images, train_labels, val_…, test_…; plain images and labels are train.
Arrays train_units, … or units say whose images are whose, and class_names what the labels stand for.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dpvision.images.array_stream import ImageArray
from dpvision.images.arrays import check_same_length, labels_from_array
from dpvision.images.class_list import indexed_labels, numbered_labels
from dpvision.images.data_set import DataSet
from dpvision.images.files import SPLITS, NoLabelsError, check_expands, check_unpacks, reading
from dpvision.images.folder import CLUTTER
from dpvision.images.images import Images
from dpvision.images.units import BYTES_OF_A_NAME, Units
from dpvision.privacy.errors import InputError

ARCHIVE, CLASS_NAMES = "images.npz", "class_names"
"""The file that a folder of synthetic images has, and its array of the names of the classes."""


class Npz(DataSet):
    """An archive of arrays, or the folder of `ARCHIVE`. Nothing is ever unpickled."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a file called *.npz, or a folder with `ARCHIVE` in it and no other data."""
        if not (path / ARCHIVE).is_file():
            return path.suffix.lower() == ".npz" and path.is_file()
        with reading(str(path)):
            names = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
        return names <= {ARCHIVE, *CLUTTER}

    @cached_property
    def splits(self) -> dict[str, str]:
        """The splits in the archive, and what their arrays' names begin with: "train_" or, plain, ""."""
        names = self._array_names
        prefixes = {split: f"{split}_" for split in SPLITS if f"{split}_images" in names}
        if "images" in names:
            prefixes.setdefault("train", "")
        if not prefixes:
            found = ", ".join(sorted(names)[:10]) or "nothing"
            raise InputError(
                f"{self._file} has no array 'images' or 'train_images' (it has {found}); save the "
                "images as that"
            )
        return prefixes

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split of the archive. Classes have the names that it says, or those of their numbers."""
        prefixes, source = self.splits, str(self.path)
        images_name = f"{prefixes[split]}images"
        label_names = {s: f"{prefix}labels" for s, prefix in prefixes.items()}
        label_names = {s: name for s, name in label_names.items() if name in self._array_names}
        if labelled and split not in label_names:
            raise NoLabelsError(
                f"{source} has '{images_name}' but no '{prefixes[split]}labels'; add the labels to the "
                "archive"
            )
        units_name, choices = f"{prefixes[split]}units", self.choices
        says = units_name in self._array_names and choices.unit is None and choices.unit_column is None
        units = _units(self._file, units_name) if says else None
        with _images(self._file, images_name) as (array, stream):
            found = array.read(stream, choices.conversion)
        if not labelled:
            return Images(found.pixels, None, (), source, stored=found.stored, units=units)
        labels = {s: _labels(self._file, name) for s, name in label_names.items()}
        check_same_length(found.pixels, labels[split], f"{split} of {source}")
        if CLASS_NAMES in self._array_names:
            names = _class_names(self._file)
            of_images, class_names = indexed_labels(labels[split], split, names, choices.classes, source)
        else:
            of_images, class_names = numbered_labels(labels, split, choices.classes, source)
        return Images(found.pixels, of_images, class_names, source, stored=found.stored, units=units)

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of a split by size (width, height): in an array, all have the same."""
        with _images(self._file, f"{self.splits[split]}images") as (array, _):
            _, height, width = array.image_shape
            return Counter({(width, height): len(array)})

    @property
    def _file(self) -> Path:
        return self.path / ARCHIVE if self.path.is_dir() else self.path

    @cached_property
    def _array_names(self) -> set[str]:
        with reading(str(self._file)), zipfile.ZipFile(self._file) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


@contextmanager
def _images(path: Path, name: str) -> Iterator[tuple[ImageArray, zipfile.ZipExtFile]]:
    """Open an array of images: yield what its header states, and the stream of values that come after it."""
    what = f"'{name}' in {path}"
    with ExitStack() as opened:
        with reading(what):
            archive = opened.enter_context(zipfile.ZipFile(path))
            stream: zipfile.ZipExtFile = opened.enter_context(archive.open(f"{name}.npy"))  # type: ignore[assignment]
        shape, fortran, dtype = _header(stream, what)
        _check(shape, dtype, dtype.itemsize, path, what, check_expands)
        yield ImageArray(dtype, shape, what, fortran), stream


def _labels(path: Path, name: str) -> NDArray[np.int64]:
    """Read labels, int64 [N]."""
    array, what = _values(path, name, 8)
    return labels_from_array(array, what)


def _units(path: Path, name: str) -> Units:
    """Read the units of N images, an array [N] of numbers or texts."""
    array, what = _values(path, name, BYTES_OF_A_NAME)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"{what} has shape {list(array.shape)}; there must be one unit per image, of shape [N]"
        )
    return Units.named(_listed(array, what), what, f"array '{name}'")


def _class_names(path: Path) -> list[str]:
    """Read the names of K classes, an array [K] of texts."""
    array, what = _values(path, CLASS_NAMES, BYTES_OF_A_NAME)
    if array.ndim != 1 or array.dtype.kind != "U":
        raise InputError(
            f"{what} holds {array.dtype} of shape {list(array.shape)}; it must be one text for each class, "
            "of shape [K]"
        )
    return _listed(array, what)


def _listed(array: NDArray[Any], what: str) -> list[Any]:
    """Return the values of an array. InputError where a text has characters that there are not."""
    with reading(what):
        values: list[Any] = array.tolist()
    return values


def _values(path: Path, name: str, least: int) -> tuple[NDArray[Any], str]:
    """Read an array whose values become at least so many bytes each; return it, and its name in words."""
    what = f"'{name}' in {path}"
    with reading(what), zipfile.ZipFile(path) as archive:
        with archive.open(f"{name}.npy") as stream:
            shape, _, dtype = _header(stream, what)
        _check(shape, dtype, max(dtype.itemsize, least), path, what)
        with archive.open(f"{name}.npy") as stream:
            return npy.read_array(stream, allow_pickle=False), what  # zipfile compares the checksum


def _header(stream: IO[bytes] | zipfile.ZipExtFile, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the shape of an array, whether it is in Fortran's order, and its type."""
    with reading(what):
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return read_header(stream)


def _check(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    itemsize: int,
    path: Path,
    what: str,
    check_size: Callable[[int, int, str], None] = check_unpacks,
) -> None:
    """Judge the header of an array, before its content is unpacked to values of itemsize bytes."""
    if dtype.hasobject:
        raise InputError(
            f"{what} holds Python objects, which are never unpickled; save it as one array of "
            "images of one size (uint8), of labels (integers), of units (integers or texts) or of class "
            "names (texts)"
        )
    if min(shape, default=0) < 0:  # so that a product is no bound
        raise InputError(f"{what} has the shape {list(shape)}; it is damaged: replace it")
    check_size(math.prod(shape) * itemsize, path.stat().st_size, f"{what} unpacked")
