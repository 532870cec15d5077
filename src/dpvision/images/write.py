"""Write images: the files of a data set, each of a format that is read again."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dpvision.images.encode import encode_png
from dpvision.images.folder import PROBABILITIES_FILE, check_folder_name
from dpvision.images.image_set import ImageSet
from dpvision.images.npz import ARCHIVE, CLASS_NAMES
from dpvision.images.units_file import UNITS_FILE, units_file
from dpvision.privacy.errors import InputError

Format = Literal["png", "npz", "parquet"]


def check_formats(formats: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise InputError for a format that does not exist, or none, or classes that cannot be its folders."""
    known = get_args(Format)
    for name in formats:
        if name not in known:
            raise InputError(f"there is no format '{name}' for images; choose from {', '.join(known)}")
    if not formats:
        raise InputError(f"images need a format to be written in; choose from {', '.join(known)}")
    if "png" in formats:
        for name in class_names:
            check_folder_name(name)


def image_files(
    images: ImageSet, format: Format, probabilities: NDArray[np.float32] | None = None
) -> dict[str, bytes]:
    """Return the files of a data set, by their names: ``<class>/000000.png`` and so on, with as many folders
    as classes; or ``images.npz``, with an array ``class_names``; or ``images.parquet``, as Hugging Face's.
    Units are in ``units.csv``, an array or a column of its own; so are ``probabilities`` of the classes
    ``[N, K]``, whose file is ``probabilities.csv``.
    """
    writers: dict[str, Callable[[ImageSet, NDArray[np.float32] | None], dict[str, bytes]]] = {
        "png": _png,
        "npz": _npz,
        "parquet": _parquet,
    }
    return writers[format](images, probabilities)


def npz_of(splits: Mapping[str, ImageSet]) -> bytes:
    """Return a .npz file with the images and labels of several splits, train_images, train_labels, …, and the
    names of their classes.
    """
    return _archive({f"{split}_": images for split, images in splits.items()})


def _png(images: ImageSet, probabilities: NDArray[np.float32] | None) -> dict[str, bytes]:
    numbers: Counter[str] = Counter()
    files = {}
    for index, pixels in enumerate(_each(images)):
        folder = "" if images.labels is None else f"{images.class_names[images.labels[index]]}/"
        files[f"{folder}{numbers[folder]:06d}.png"] = encode_png(pixels)
        numbers[folder] += 1
    if images.units is not None:
        # "./" keeps a space that a class's name begins with.
        files[UNITS_FILE] = units_file(
            [(f"./{name}", unit) for name, unit in zip(files, images.units.of_images, strict=True)]
        )
    if probabilities is not None:
        names = [name for name in files if name != UNITS_FILE]
        files[PROBABILITIES_FILE] = _table(names, images.class_names, probabilities)
    return files


def _table(names: Sequence[str], class_names: Sequence[str], numbers: NDArray[np.float32]) -> bytes:
    """Return a .csv file with a line for each image: its file, and a number for each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *class_names])
    writer.writerows(
        [name, *(f"{number:.6g}" for number in row)] for name, row in zip(names, numbers, strict=True)
    )
    return text.getvalue().encode()


def _each(images: ImageSet) -> Iterator[NDArray[np.uint8]]:
    """Yield the images, uint8 [C, H, W], one after another."""
    return (pixels for block in images.blocks() for pixels in block.numpy())


def _npz(images: ImageSet, probabilities: NDArray[np.float32] | None) -> dict[str, bytes]:
    more = {} if probabilities is None else {"probabilities": probabilities}
    return {ARCHIVE: _archive({"": images}, more)}


def _archive(images_of: Mapping[str, ImageSet], more: Mapping[str, NDArray[Any]] | None = None) -> bytes:
    """Return a .npz file of images, by what the names of their arrays begin with, and of ``more`` arrays."""
    arrays = dict(more or {})
    labelled = {prefix: images for prefix, images in images_of.items() if images.labels is not None}
    if labelled:
        names = next(iter(labelled.values())).class_names
        arrays[CLASS_NAMES] = np.array(names, dtype=np.str_)
        arrays |= {f"{prefix}labels": _labels(images, names) for prefix, images in labelled.items()}
    for prefix, images in images_of.items():
        arrays[f"{prefix}images"] = images.take(torch.arange(len(images))).permute(0, 2, 3, 1).numpy()
        if images.units is not None:
            arrays[f"{prefix}units"] = np.array(images.units.of_images, dtype=np.str_)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


def _labels(images: ImageSet, class_names: Sequence[str]) -> NDArray[np.int64]:
    """Return the labels of images, int64 [N], in the order of these classes."""
    labels = images.with_classes(class_names).labels
    assert labels is not None
    return labels.numpy()


def _parquet(images: ImageSet, probabilities: NDArray[np.float32] | None) -> dict[str, bytes]:
    encoded = [{"bytes": encode_png(pixels), "path": None} for pixels in _each(images)]
    columns = {"image": pa.array(encoded, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    features = {"image": {"_type": "Image"}}
    if images.labels is not None:
        columns["label"] = pa.array(images.labels.numpy())
        features["label"] = {"names": list(images.class_names), "_type": "ClassLabel"}  # type: ignore[dict-item]
    if images.units is not None:
        columns["unit"] = pa.array(images.units.of_images, pa.string())
        features["unit"] = {"dtype": "string", "_type": "Value"}
    if probabilities is not None:
        columns["probabilities"] = pa.array(list(probabilities), pa.list_(pa.float32()))
        features["probabilities"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}  # type: ignore[dict-item]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    content = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), content)
    return {"images.parquet": content.getvalue()}
