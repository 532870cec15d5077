"""Parquet in the Hugging Face image layout: structs with encoded images, ClassLabel names in the metadata."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.arrays import labels_from_array
from dpvision.images.choices import Choices
from dpvision.images.class_list import check_labelled, named_labels, numbered_labels
from dpvision.images.decode import count_sizes, decode
from dpvision.images.files import (
    FREE_BYTES,
    SPLIT_WORDS,
    NoLabelsError,
    check_regular,
    check_unpacks,
    most_unpacked,
    parse_json,
    reading,
)
from dpvision.images.images import Images
from dpvision.images.parquet_pages import page_sizes
from dpvision.images.stack import stack
from dpvision.privacy.errors import InputError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMN = "label"

FILE_NAME = re.compile(rf"(?:.*[-_.])?({'|'.join(SPLIT_WORDS)})(?:-(\d+)-of-(\d+).*)?\.parquet")

ROWS_AT_ONCE = 1024
BYTES_AT_ONCE = 2**19
"""Most encoded images, and most bytes of them by their mean, that wait in memory at a time."""

READ_BYTES = 2**18
"""Bytes of a column that are read at a time: otherwise a whole group of rows would wait in memory, packed."""


def recognises(path: Path) -> bool:
    """Say whether path is a file called *.parquet, or a folder with some in it or in its folder "data"."""
    return bool(_files(path))


def splits(path: Path, choices: Choices) -> dict[str, list[Path]]:
    """Return the splits by file name (train-00000-of-00004.parquet), each with its shards in order.

    One file whose name says no split is train.

    Raises:
        InputError: if it is unclear which split a file belongs to, or a shard is missing or there twice.
    """
    files = _files(path)
    found: dict[str, list[Path]] = {}
    numbers: dict[str, list[tuple[int, int]]] = {}  # of each shard: its own, and how many there should be
    for file in files:
        match = FILE_NAME.fullmatch(file.name)
        if match is None and len(files) > 1:
            raise InputError(f"{file} does not say its split; call it like train-00000-of-00004.parquet")
        split = SPLIT_WORDS[match[1]] if match else "train"
        found.setdefault(split, []).append(file)
        numbers.setdefault(split, []).append((int(match[2]), int(match[3])) if match and match[2] else (0, 1))
    if path.is_dir():  # of a file named by itself only that file is wanted
        for split, shards in found.items():
            if numbers[split] != [(i, len(shards)) for i in range(len(shards))]:
                names = ", ".join(file.name for file in shards)
                raise InputError(
                    f"{path} has not every shard of {split} exactly once ({names}); complete the download"
                )
    return found


def read(path: Path, split: str, choices: Choices, labelled: bool) -> Images:
    """Read one split, all its shards in order. Without ClassLabel names the classes are numbered."""
    shards = splits(path, choices)
    count = sum(_open(file)[0].metadata.num_rows for file in shards[split])
    if count == 0:
        raise InputError(f"{path} has no rows in {split}; at least one image is needed")
    if count < 0:
        raise InputError(f"{path} states {count} rows in {split}; it is damaged: replace it")
    # Before anything is decoded, for there may be none.
    labels = _labelled(path, split, shards, choices) if labelled else None
    found = stack(
        _encoded_images(shards[split]),
        count,
        _decoded,
        str(path),
        choices.conversion,
        _stored(shards[split]),
        choices.skip_unreadable,
    )
    of_kept, class_names = (labels[0][found.kept], labels[1]) if labels else (None, ())
    return Images(found.pixels, of_kept, class_names, str(path), stored=found.stored, left_out=found.left_out)


def sizes(path: Path, split: str, choices: Choices) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), by their headers, as far as these can be read."""
    images = _encoded_images(splits(path, choices)[split])
    return count_sizes((encoded or b"", name) for name, encoded in images)


def _decoded(encoded: bytes | None, name: str) -> NDArray[Any]:
    if encoded is None:
        raise InputError(f"{name} holds no image bytes; embed the image or remove the row")
    return decode(encoded, name)


def _labelled(
    path: Path, split: str, shards: Mapping[str, Sequence[Path]], choices: Choices
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels of a split, int64 [N], and the names of the classes."""
    of_split = _labels(shards[split])
    names = {_class_names(file) for files in shards.values() for file in files}
    if len(names) > 1:
        raise InputError(
            f"{path}: the shards' metadata name different classes; keep one data set in a folder"
        )
    own_names = names.pop()
    if own_names is None:
        others = {name: _labels_if_any(files) for name, files in shards.items() if name != split}
        labels = {split: of_split, **{name: found for name, found in others.items() if found is not None}}
        return numbered_labels(labels, split, choices.class_list, str(path))
    check_labelled(of_split, split, str(path))
    if of_split.min() < 0 or of_split.max() >= len(own_names):
        raise InputError(
            f"{path}: labels must lie in 0..{len(own_names) - 1} (one per class that the metadata name), "
            f"found {of_split.min()}..{of_split.max()}"
        )
    return named_labels([own_names[label] for label in of_split], own_names, choices.class_list, str(path))


def _labels_if_any(files: Sequence[Path]) -> NDArray[np.int64] | None:
    try:
        return _labels(files)
    except NoLabelsError:
        return None


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.glob("*.parquet")) or sorted(path.glob("data/*.parquet"))
    return [path] if path.suffix.lower() == ".parquet" else []


def _open(file: Path) -> tuple[pq.ParquetFile, pa.Schema]:
    check_regular(file)
    with reading(str(file)):
        parquet = pq.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False)
        return parquet, parquet.schema_arrow


def _stored(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _encoded_images(files: Sequence[Path]) -> Iterator[tuple[str, bytes | None]]:
    """Yield the encoded images, None where there is none, each with the words "FILE, row i", a batch of rows
    at a time.
    """
    yielded, most = 0, most_unpacked(_stored(files))
    for file in files:
        parquet, schema = _open(file)
        column = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
        if column is None:
            raise InputError(
                f"{file} has no column {' or '.join(IMAGE_COLUMNS)}; rename the column of images"
            )
        with reading(str(file)):  # there may be two of that name
            kind = schema.field(column).type
        if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
            raise InputError(
                f"{file}: column '{column}' is {kind}, not a struct with the images' bytes; embed the images"
            )
        leaf = f"{column}.bytes"
        # Rows of the same bytes may be stored once, in a dictionary.
        total, largest = _check_pages(file, leaf)
        row = 0
        with reading(str(file)):
            mean = total // max(1, parquet.metadata.num_rows)
            rows_at_once = max(
                1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, mean), FREE_BYTES // max(1, largest))
            )
            batches = parquet.iter_batches(rows_at_once, columns=[leaf])
        while True:
            with reading(str(file)):
                batch = next(batches, None)
                some = None if batch is None else batch.column(0).field("bytes").to_pylist()
            if some is None:
                break
            for encoded in some:
                held = encoded if isinstance(encoded, bytes) else None
                yielded += len(held or b"")
                if yielded > most:
                    raise InputError(f"{file} holds the same bytes too often; it may be damaged: replace it")
                yield f"{file}, row {row}", held
                row += 1


def _check_pages(file: Path, leaf: str) -> tuple[int, int]:
    """Return the bytes that a column unpacks to, and those of its largest dictionary.

    Raises:
        InputError: its pages would unpack to far more than the file can hold.
    """
    with reading(str(file)):
        total, largest_dictionary = page_sizes(file, leaf)
    check_unpacks(total, file.stat().st_size, f"'{leaf}' in {file} unpacked")
    return total, largest_dictionary


def _labels(files: Sequence[Path]) -> NDArray[np.int64]:
    """Read labels, int64 [N], over all the shards of a split."""
    of_files = []
    for file in files:
        parquet, schema = _open(file)
        if LABEL_COLUMN not in schema.names:
            raise NoLabelsError(f"{file} has no column '{LABEL_COLUMN}'; add or rename the column of labels")
        what = f"column '{LABEL_COLUMN}' in {file}"
        with reading(str(file)):
            kind = schema.field(LABEL_COLUMN).type
        if not pa.types.is_integer(kind):  # texts could be of any length
            raise InputError(f"{what} holds {kind}, not integers; number the classes from 0")
        check_unpacks(8 * parquet.metadata.num_rows, file.stat().st_size, f"{what} unpacked")
        _check_pages(file, LABEL_COLUMN)
        with reading(str(file)):
            column = parquet.read(columns=[LABEL_COLUMN]).column(0)
        if column.null_count:
            raise InputError(
                f"{file}: column '{LABEL_COLUMN}' has {column.null_count} empty entries; fill or remove them"
            )
        of_files.append(labels_from_array(column.to_numpy(), what))
    return np.concatenate(of_files)


def _class_names(file: Path) -> tuple[str, ...] | None:
    """Return the ClassLabel names in the metadata that Hugging Face datasets writes, if there are any."""
    metadata = _open(file)[1].metadata or {}
    if b"huggingface" not in metadata:
        return None
    with reading(f"the metadata of {file}"):
        described = parse_json(metadata[b"huggingface"])
        feature = described["info"]["features"].get(LABEL_COLUMN, {})
        return tuple(str(name) for name in feature["names"]) if "names" in feature else None
