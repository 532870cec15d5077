"""Parquet in the Hugging Face image layout: structs with encoded images, ClassLabel names in the metadata."""

from __future__ import annotations

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
from dpvision.images.class_list import indexed_labels, named_labels, numbered_labels
from dpvision.images.columns import numbered_rows
from dpvision.images.conversion import Deep
from dpvision.images.decode import count_sizes
from dpvision.images.files import (
    FREE_BYTES,
    NoLabelsError,
    check_regular,
    check_unpacks,
    most_unpacked,
    parse_json,
    reading,
)
from dpvision.images.images import Images
from dpvision.images.parquet_pages import page_sizes
from dpvision.images.shards import parquet_files, shards_by_split
from dpvision.images.stack import stack
from dpvision.images.units import BYTES_OF_A_NAME, Units, unit_name
from dpvision.images.whose import Whose, unit_column
from dpvision.privacy.errors import InputError, named_option

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label", "coarse_label", "class", "target")

ROWS_AT_ONCE = 1024
BYTES_AT_ONCE = 2**19
"""Most encoded images, and most bytes of them by their mean, that wait in memory at a time."""

READ_BYTES = 2**18
"""Bytes of a column that are read at a time: otherwise a whole group of rows would wait in memory, packed."""


def recognises(path: Path) -> bool:
    """Say whether path is a file called *.parquet, or a folder with some, see `parquet_files`."""
    return bool(parquet_files(path))


def splits(path: Path, choices: Choices) -> dict[str, list[Path]]:
    """Return the splits, each with its shards in order; see `shards_by_split`."""
    return shards_by_split(path, parquet_files(path))


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
    whose = _whose(shards[split], choices)
    if whose and len(whose.names) != count:
        raise InputError(
            f"{path} has {len(whose.names)} units in {split}, of {count} rows; it is damaged: replace it"
        )
    found = stack(
        _encoded_images(shards[split]),
        count,
        lambda encoded, name: _decoded(encoded, name, choices),
        str(path),
        choices.conversion,
        _stored(shards[split]),
        choices.skip_unreadable,
    )
    of_kept, class_names = (labels[0][found.kept], labels[1]) if labels else (None, ())
    return Images(
        found.pixels,
        of_kept,
        class_names,
        str(path),
        stored=found.stored,
        left_out=found.left_out,
        units=Units.named(found.names(whose.names), str(path), whose.origin) if whose else None,
    )


def sizes(path: Path, split: str, choices: Choices) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), by their headers, as far as these can be read."""
    images = _encoded_images(splits(path, choices)[split])
    return count_sizes((encoded or b"", name) for name, encoded in images)


def _decoded(encoded: bytes | None, name: str, choices: Choices) -> NDArray[Any] | Deep:
    if encoded is None:
        raise InputError(f"{name} holds no image bytes; embed the image or remove the row")
    return choices.decode(encoded, name)


def _labelled(
    path: Path, split: str, shards: Mapping[str, Sequence[Path]], choices: Choices
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels of a split, int64 [N], and the names of the classes."""
    column = _label_column(shards[split], choices)
    names = {_class_names(file, column) for files in shards.values() for file in files}
    if len(names) > 1:
        raise InputError(
            f"{path}: the shards' metadata name different classes; keep one data set in a folder"
        )
    own_names, of_split = names.pop(), _labels(shards[split], column)
    if of_split.dtype == object:
        every = {str(label) for files in shards.values() for label in _labels_if_any(files, column)}
        return named_labels(of_split.tolist(), sorted(every), choices.classes, str(path))
    if own_names is None:
        labels = {name: _labels_if_any(files, column) for name, files in shards.items()}
        return numbered_labels({**labels, split: of_split}, split, choices.classes, str(path))
    return indexed_labels(of_split, split, own_names, choices.classes, str(path))


def _label_column(files: Sequence[Path], choices: Choices) -> str:
    """Return the name of the column of labels: the one that was named, or the one with a usual name."""
    file, present = files[0], _open(files[0])[1].names
    if choices.label_column is not None:
        if choices.label_column not in present:
            raise InputError(f"{file} has no column '{choices.label_column}' (it has {', '.join(present)})")
        return choices.label_column
    # What has always been taken goes before all others.
    usual = LABEL_COLUMNS[:1] if LABEL_COLUMNS[0] in present else [n for n in LABEL_COLUMNS if n in present]
    if not usual:
        raise NoLabelsError(
            f"{file} has no column '{LABEL_COLUMNS[0]}' (it has {', '.join(present)}); name the column of "
            f"labels, with {named_option('label_column')}"
        )
    if len(usual) > 1:
        raise InputError(
            f"{file} has several columns that may be the labels ({', '.join(usual)}); say which, with "
            f"{named_option('label_column', usual[0])}"
        )
    return usual[0]


def _whose(files: Sequence[Path], choices: Choices) -> Whose | None:
    """Return whose the images of a split are, if a column says so. InputError where one has no unit."""
    column = unit_column(_open(files[0])[1].names, choices, str(files[0]))
    if column is None:
        return None
    names: list[str] = []
    for file in files:
        what = f"column '{column}' in {file}"
        kind = _kind(file, column)
        texts = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (_is_text(texts) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise InputError(f"{what} holds {kind}; name units by texts or whole numbers")
        values = _values(file, column, BYTES_OF_A_NAME)
        with reading(str(file)):  # texts may be none
            of_file = [unit_name(value, what) for value in values.to_pylist()]
        empty = [row for row, name in enumerate(of_file) if not name]
        if empty:
            raise InputError(
                f"{file}: {numbered_rows(empty)} no unit in '{column}'; fill it, or protect each image by "
                f"itself, with {named_option('unit', 'image')}"
            )
        names += of_file
    return Whose(names, f"column '{column}'")


def _labels_if_any(files: Sequence[Path], column: str) -> NDArray[Any]:
    """Return the labels of another split, none where it has no such column."""
    has = all(column in _open(file)[1].names for file in files)
    return _labels(files, column) if has else np.empty(0, dtype=np.int64)


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


def _labels(files: Sequence[Path], column: str) -> NDArray[Any]:
    """Read labels over all the shards of a split, int64 [N], or texts [N]."""
    of_files = []
    for file in files:
        what, kind = f"column '{column}' in {file}", _kind(file, column)
        texts = _is_text(kind)
        if not (texts or pa.types.is_integer(kind)):
            raise InputError(f"{what} holds {kind}, not integers or texts; number the classes from 0")
        values = _values(file, column, 8)
        missing = values.null_count + (values.to_pylist().count("") if texts else 0)
        if missing:
            raise InputError(f"{file}: column '{column}' has {missing} empty entries; fill or remove them")
        # As objects: an array of texts would hold each as long as the longest.
        as_texts = np.array(values.to_pylist() if texts else [], dtype=object)
        of_files.append(as_texts if texts else labels_from_array(values.to_numpy(), what))
    return np.concatenate(of_files)


def _kind(file: Path, column: str) -> pa.DataType:
    """Return the type of a column that all shards of a split have."""
    schema = _open(file)[1]
    if column not in schema.names:
        raise InputError(f"{file} has no column '{column}', as others have; complete it")
    with reading(str(file)):
        return schema.field(column).type


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _values(file: Path, column: str, least: int) -> pa.ChunkedArray:
    """Read a column whose values become at least so many bytes each."""
    parquet, _ = _open(file)
    check_unpacks(
        least * parquet.metadata.num_rows, file.stat().st_size, f"column '{column}' in {file} unpacked"
    )
    _check_pages(file, column)
    with reading(str(file)):
        return parquet.read(columns=[column]).column(0)


def _class_names(file: Path, column: str) -> tuple[str, ...] | None:
    """Return the ClassLabel names in the metadata that Hugging Face datasets writes, if there are any."""
    metadata = _open(file)[1].metadata or {}
    if b"huggingface" not in metadata:
        return None
    with reading(f"the metadata of {file}"):
        described = parse_json(metadata[b"huggingface"])
        feature = described["info"]["features"].get(column, {})
        return tuple(str(name) for name in feature["names"]) if "names" in feature else None
