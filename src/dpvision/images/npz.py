"""NumPy archives: MedMNIST's train_images, train_labels, val_…, test_…; plain images and labels are train."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from dpvision.images.arrays import check_same_length, labels_from_array, numbered_classes, pixels_from_array
from dpvision.images.decode import Conversion
from dpvision.images.files import SPLITS, NoLabelsError, check_unpacks, reading
from dpvision.images.images import Images
from dpvision.privacy.errors import InputError


def recognises(path: Path) -> bool:
    """Whether path is a file called *.npz."""
    return path.suffix.lower() == ".npz" and path.is_file()


def splits(path: Path) -> dict[str, str]:
    """The splits in the archive, each with what its arrays' names begin with: "train_" or, plain, ""."""
    names = _array_names(path)
    prefixes = {split: f"{split}_" for split in SPLITS if f"{split}_images" in names}
    if "images" in names:
        prefixes.setdefault("train", "")
    if not prefixes:
        found = ", ".join(sorted(names)[:10]) or "nothing"
        raise InputError(
            f"{path} has no array 'images' or 'train_images' (it has {found}); save the images as that"
        )
    return prefixes


def read(path: Path, split: str, conversion: Conversion, labelled: bool) -> Images:
    """One split of the archive; classes are numbered. Nothing is ever unpickled."""
    prefixes = splits(path)
    names = _array_names(path)
    images_name = f"{prefixes[split]}images"
    label_names = {s: f"{prefix}labels" for s, prefix in prefixes.items() if f"{prefix}labels" in names}
    if labelled and split not in label_names:
        raise NoLabelsError(
            f"{path} has '{images_name}' but no '{prefixes[split]}labels'; add the labels to the archive"
        )
    pixels, stored = pixels_from_array(_array(path, images_name), conversion, f"'{images_name}' in {path}")
    if not labelled:
        return Images(pixels, None, (), str(path), stored=stored)
    labels = {
        s: labels_from_array(_array(path, name), f"'{name}' in {path}") for s, name in label_names.items()
    }
    check_same_length(pixels, labels[split], f"{split} of {path}")
    return Images(pixels, labels[split], numbered_classes(labels.values()), str(path), stored=stored)


def sizes(path: Path, split: str) -> Counter[tuple[int, int]]:
    """How many images of a split have which (width, height): in an array, all the same."""
    images = read(path, split, Conversion(), labelled=False)
    _, height, width = images.shape
    return Counter({(width, height): len(images)})


def _array_names(path: Path) -> set[str]:
    with reading(str(path)), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}


def _array(path: Path, name: str) -> NDArray[Any]:
    """One array of the archive, its header judged before its content is unpacked."""
    what = f"'{name}' in {path}"
    with reading(what), zipfile.ZipFile(path) as archive:
        with archive.open(f"{name}.npy") as stream:
            version = npy.read_magic(stream)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(stream)
        if dtype.hasobject:
            raise InputError(
                f"{what} holds Python objects, which are never unpickled; save it as one array of "
                "images of one size (uint8) or of labels (integers)"
            )
        if min(shape, default=0) < 0:  # so that a product is no bound
            raise InputError(f"{what} has the shape {list(shape)}; it is damaged: replace it")
        # Labels become eight bytes each.
        itemsize = dtype.itemsize if name.endswith("images") else max(dtype.itemsize, 8)
        check_unpacks(math.prod(shape) * itemsize, path.stat().st_size, f"{what} unpacked")
        with archive.open(f"{name}.npy") as stream:
            return npy.read_array(stream, allow_pickle=False)  # zipfile compares the checksum
