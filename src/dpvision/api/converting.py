"""Convert a data set to another format, or draw a sheet of it. What comes out is as private as the images.

Guarantee: what is guaranteed of images that a run made of private ones is in the folder of a copy too, as
pool.json, and where it cannot be there is no copy. ``tests/api/test_released_pools.py`` trains with copies.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from dpvision.api.sources import Reading
from dpvision.images import ImageSet, available_splits
from dpvision.images.files import check_fits_memory
from dpvision.images.released import check_as_released, provenance_with, release_with
from dpvision.images.series import POOL_RECORD
from dpvision.images.write import check_formats, image_files, npz_of
from dpvision.privacy.errors import InputError
from dpvision.reports.grid import class_sheet
from dpvision.runs.files import json_bytes, write_atomically, write_folder
from dpvision.runs.places import check_free

Target = Literal["parquet", "npz", "folder"]

OF_A_CLASS = 8
"""Images of each class on a sheet, and the most of its columns."""


def check_target(spec: str | os.PathLike[str], to: Target, out: str | os.PathLike[str]) -> None:
    """Raise InputError unless a data set can be written to ``out`` in this format, and how its images were
    made beside them, where that is said: before they are read.
    """
    if to not in get_args(Target):
        raise InputError(
            f"there is no format '{to}' to convert to; choose from {', '.join(get_args(Target))}"
        )
    out = Path(out)
    if to == "npz" and out.suffix.lower() != ".npz":
        raise InputError(f"{out} must be called *.npz, or it would not be known again")
    check_free(out)
    if out.exists() and to == "npz":
        raise InputError(f"{out} is a folder; name a new file")
    if to == "npz" and provenance_with(spec) is not None:
        raise InputError(
            f"{spec} says how its images were made, and what is guaranteed of them if that was of private "
            "ones, which one .npz file would lose; convert to parquet or folder"
        )


def convert(how: Reading, images: ImageSet, to: Target, out: str | os.PathLike[str]) -> None:
    """Write all splits of a data set in another format: a folder of Parquet files, a folder of class folders,
    or one .npz file. Only the owner may read them.

    Args:
        how: how one split was read; so are the others.
        images: the images of that split.
        to, out: as for :func:`check_target`.

    Raises:
        InputError: another split cannot be read, ``out`` cannot be written, or images of a release were
            changed since.
    """
    assert how.spec is not None
    check_target(how.spec, to, out)
    record = _record(how.spec, len(images))
    splits: dict[str, ImageSet] = {
        split: images if split == how.split else replace(how, split=split).open(labelled=None)
        for split in available_splits(how.spec, **how.given())
    }
    for of_split in splits.values():  # what is written is held in memory until it is whole
        check_fits_memory(
            2 * len(of_split) * math.prod(of_split.shape), f"{of_split.source}, written as {to},"
        )
    if to == "npz":
        write_atomically(Path(out), npz_of(splits))
    else:
        write_folder(Path(out), (_parquet(splits) if to == "parquet" else _folders(splits)) | record)


def draw_sheet(images: ImageSet, out: str | os.PathLike[str]) -> None:
    """Draw the first images of each class, a class to a row, as a PNG that only the owner may read.

    Raises:
        InputError: it cannot be written.
    """
    write_atomically(Path(out), class_sheet(images, OF_A_CLASS))


def _record(spec: str, count: int) -> dict[str, bytes]:
    """Return the file that says of a copy how its images were made; none where nothing says it. Those of a
    release are ``count`` images.
    """
    provenance, release = provenance_with(spec), release_with(spec)
    if provenance is None:
        return {}
    if release is not None:  # a record has its count
        check_as_released(release)
        provenance["count"] = count
    return {POOL_RECORD: json_bytes(provenance)}


def _parquet(splits: Mapping[str, ImageSet]) -> dict[str, bytes]:
    return {
        f"data/{split}-00000-of-00001.parquet": image_files(images, "parquet")["images.parquet"]
        for split, images in splits.items()
    }


def _folders(splits: Mapping[str, ImageSet]) -> dict[str, bytes]:
    """Return the files of class folders, below folders of splits where there are several."""
    for images in splits.values():
        check_formats(["png"], images.class_names)
    return {
        name if len(splits) == 1 else f"{split}/{name}": content
        for split, images in splits.items()
        for name, content in image_files(images, "png").items()
    }
