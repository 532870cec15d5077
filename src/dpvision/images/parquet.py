"""Parquet in the Hugging Face image layout: structs with encoded images, ClassLabel names in the metadata."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from dpvision.images.arrays import labels_from_array, numbered_classes
from dpvision.images.decode import Conversion, decode, encoded_size
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


def splits(path: Path) -> dict[str, list[Path]]:
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


def read(path: Path, split: str, conversion: Conversion, labelled: bool) -> Images:
    """Read one split, all its shards in order. Without ClassLabel names the classes are numbered."""
    shards = splits(path)
    count = sum(_open(file)[0].metadata.num_rows for file in shards[split])
    if count == 0:
        raise InputError(f"{path} has no rows in {split}; at least one image is needed")
    if count < 0:
        raise InputError(f"{path} states {count} rows in {split}; it is damaged: replace it")
    labels = _labels(shards[split]) if labelled else None  # before anything is decoded, for there may be none
    num_bytes = _stored(shards[split])
    pixels, stored = stack(_encoded_images(shards[split]), count, decode, str(path), conversion, num_bytes)
    if labels is None:
        return Images(pixels, None, (), str(path), stored=stored)
    names = {_class_names(file) for files in shards.values() for file in files}
    if len(names) > 1:
        raise InputError(
            f"{path}: the shards' metadata name different classes; keep one data set in a folder"
        )
    class_names = names.pop() or numbered_classes(
        labels if name == split else _labels(files) for name, files in shards.items()
    )
    return Images(pixels, labels, class_names, str(path), stored=stored)


def sizes(path: Path, split: str) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), by their headers."""
    return Counter(encoded_size(encoded, name) for name, encoded in _encoded_images(splits(path)[split]))


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


def _encoded_images(files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield the encoded images, each with the words "FILE, row i", a batch of rows at a time."""
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
                if not isinstance(encoded, bytes):
                    raise InputError(
                        f"{file}, row {row} holds no image bytes; embed the image or remove the row"
                    )
                yielded += len(encoded)
                if yielded > most:
                    raise InputError(f"{file} holds the same bytes too often; it may be damaged: replace it")
                yield f"{file}, row {row}", encoded
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


def _labels(files: Sequence[Path]) -> Tensor:
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
    return torch.cat(of_files)


def _class_names(file: Path) -> tuple[str, ...] | None:
    """Return the ClassLabel names in the metadata that Hugging Face datasets writes, if there are any."""
    metadata = _open(file)[1].metadata or {}
    if b"huggingface" not in metadata:
        return None
    with reading(f"the metadata of {file}"):
        described = parse_json(metadata[b"huggingface"])
        feature = described["info"]["features"].get(LABEL_COLUMN, {})
        return tuple(str(name) for name in feature["names"]) if "names" in feature else None
