"""Read the images, labels and units of files of rows."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.arrays import labels_from_array
from dpvision.images.choices import Choices
from dpvision.images.class_list import indexed_labels, named_labels, numbered_labels
from dpvision.images.columns import find_column, numbered_rows
from dpvision.images.conversion import Deep
from dpvision.images.data_set import DataSet
from dpvision.images.decode import count_sizes
from dpvision.images.files import NoLabelsError, check_unpacks, reading
from dpvision.images.images import Images
from dpvision.images.row_file import RowFile, blocks_of_all
from dpvision.images.stack import stack
from dpvision.images.units import BYTES_OF_A_NAME, Units, unit_name
from dpvision.images.whose import Whose, unit_column
from dpvision.privacy.errors import InputError, named_option

IMAGE_COLUMNS = ("img", "image")
LABEL = "label"
"""The column of labels wherever there is one of this name."""


class RowFiles(DataSet):
    """A data set in files of rows."""

    @property
    @abstractmethod
    def splits(self) -> Mapping[str, Sequence[RowFile]]:
        """The splits, each with its files in order."""

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of a split by size (width, height), by headers, as far as these can be read."""
        return count_sizes(
            (encoded or b"", name) for name, encoded in _encoded_images(self.splits[split], self.choices)
        )

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split, all its files in order. Without ClassLabel names the classes are numbered."""
        files, source, choices = self.splits[split], str(self.path), self.choices
        count = sum(file.num_rows for file in files)
        if count == 0:
            raise InputError(f"{source} has no rows in {split}; at least one image is needed")
        if count < 0:
            raise InputError(f"{source} states {count} rows in {split}; it is damaged: replace it")
        # Before anything is decoded, for there may be none.
        labels = self._labelled(split) if labelled else None
        if labels and len(labels[0]) != count:
            raise InputError(
                f"{source} has {len(labels[0])} labels in {split}, of {count} rows; it is damaged: replace it"
            )
        whose = _whose(files, choices)
        if whose and len(whose.names) != count:
            raise InputError(
                f"{source} has {len(whose.names)} units in {split}, of {count} rows; it is damaged: "
                "replace it"
            )
        found = stack(
            _encoded_images(files, choices),
            count,
            self._decoded,
            source,
            choices.conversion,
            sum(file.stored for file in files),
            choices.skip_unreadable,
        )
        of_kept, class_names = (labels[0][found.kept], labels[1]) if labels else (None, ())
        return Images(
            found.pixels,
            of_kept,
            class_names,
            source,
            stored=found.stored,
            left_out=found.left_out,
            units=Units.named(found.names(whose.names), source, whose.origin) if whose else None,
        )

    def _decoded(self, encoded: bytes | None, name: str) -> NDArray[Any] | Deep:
        if encoded is None:
            raise InputError(
                f"{name} holds no image bytes; embed the image, as new versions of datasets do, or "
                "remove the row"
            )
        return self.choices.decode(encoded, name)

    def _labelled(self, split: str) -> tuple[Tensor, tuple[str, ...]]:
        """Return the labels of a split, int64 [N], and the names of the classes."""
        source, classes = str(self.path), self.choices.classes
        column = _label_column(self.splits[split], self.choices)
        names = {file.class_names(column) for files in self.splits.values() for file in files}
        if len(names) > 1:
            raise InputError(
                f"{source}: the shards' metadata name different classes; keep one data set in a folder"
            )
        own_names, of_split = names.pop(), _labels(self.splits[split], column)
        if of_split.dtype != object and own_names is not None:
            return indexed_labels(of_split, split, own_names, classes, source)
        labels = {
            name: of_split if name == split else _labels_if_any(files, column)
            for name, files in self.splits.items()
        }
        if of_split.dtype == object:
            every = {str(label) for of_one in labels.values() for label in of_one}
            return named_labels(of_split.tolist(), sorted(every), classes, source)
        return numbered_labels(labels, split, classes, source)


def _encoded_images(files: Sequence[RowFile], choices: Choices) -> Iterator[tuple[str, bytes | None]]:
    """Yield the encoded images, None where there is none, each with the words "FILE, row i"."""
    rows: Counter[RowFile] = Counter()
    for file, _, block in blocks_of_all(((file, _image_column(file, choices)) for file in files), "bytes"):
        for value in block:
            yield f"{file.path}, row {rows[file]}", value.as_py()
            rows[file] += 1


def _image_column(file: RowFile, choices: Choices) -> str:
    """Return the name of the column of images: the one that was named, or has a usual name, or is the only
    one that is said to hold images.
    """
    column = choices.path_column
    if column is not None and column not in file.names:
        raise InputError(f"{file.path} has no column '{column}' (it has {', '.join(file.names)})")
    column = column or next((name for name in IMAGE_COLUMNS if name in file.names), None)
    if column is None:
        with reading(f"the metadata of {file.path}"):
            said = [name for name in file.names if file.features.get(name, {}).get("_type") == "Image"]
        if len(said) != 1:
            raise InputError(
                f"{file.path} has no column {' or '.join(IMAGE_COLUMNS)} (it has {', '.join(file.names)}); "
                f"name the column of images, with {named_option('path_column')}"
            )
        column = said[0]
    kind, in_words = file.kind(column)
    at = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    if at < 0 or not _is_binary(kind.field(at).type):
        raise InputError(
            f"{file.path}: column '{column}' is {in_words}, not a struct with the images' bytes; "
            "embed the images"
        )
    return column


def _is_binary(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind  # blocks are of its values
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _label_column(files: Sequence[RowFile], choices: Choices) -> str:
    """Return the name of the column of labels: the one that was named, or the one with a usual name."""
    file, present, named = files[0].path, files[0].names, choices.label_column
    if named is None and LABEL in present:  # others may be there, as the coarser classes of CIFAR-100
        return LABEL
    found = find_column(present, "label", named, str(file))
    if found is None:
        raise NoLabelsError(
            f"{file} has no column '{LABEL}' (it has {', '.join(present)}); name the column of labels, with "
            f"{named_option('label_column')}"
        )
    return found


def _whose(files: Sequence[RowFile], choices: Choices) -> Whose | None:
    """Return whose the images of a split are, if a column says so. InputError where one has no unit."""
    column = unit_column(files[0].names, choices, str(files[0].path))
    if column is None:
        return None
    for file in files:
        _check_holds_units(file, column)
    names: dict[RowFile, list[str]] = {file: [] for file in files}
    for file, _, block in blocks_of_all((file, column) for file in files):
        with reading(str(file.path)):  # texts may be none
            names[file] += [
                unit_name(value, f"column '{column}' in {file.path}") for value in block.to_pylist()
            ]
    for file, of_file in names.items():
        if empty := [row for row, name in enumerate(of_file) if not name]:
            raise InputError(
                f"{file.path}: {numbered_rows(empty)} no unit in '{column}'; fill it, or protect each image "
                f"by itself, with {named_option('unit', 'image')}"
            )
    return Whose([name for of_file in names.values() for name in of_file], f"column '{column}'")


def _check_holds_units(file: RowFile, column: str) -> None:
    if column not in file.names:
        raise InputError(f"{file.path} has no column '{column}', as others have; complete it")
    kind, in_words = file.kind(column)
    what = f"column '{column}' in {file.path}"
    texts = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (_is_text(texts) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InputError(f"{what} holds {in_words}; name units by texts or whole numbers")
    check_unpacks(BYTES_OF_A_NAME * file.num_rows, file.stored, f"{what} unpacked")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _labels_if_any(files: Sequence[RowFile], column: str) -> NDArray[Any]:
    """Return the labels of another split, none where it has no such column."""
    has = all(column in file.names for file in files)
    return _labels(files, column) if has else np.empty(0, dtype=np.int64)


def _labels(files: Sequence[RowFile], column: str) -> NDArray[Any]:
    """Read labels over all the files of a split, int64 [N], or texts [N]."""
    for file in files:
        if column not in file.names:
            raise InputError(f"{file.path} has no column '{column}', as others have; complete it")
        _check_holds_labels(file, column)
    blocks = []
    missing: Counter[RowFile] = Counter()
    for file, _, block in blocks_of_all((file, column) for file in files):
        missing[file] += block.null_count
        if pa.types.is_integer(block.type):
            numbers = block.drop_null().to_numpy(zero_copy_only=False)
            blocks.append(labels_from_array(numbers, f"column '{column}' in {file.path}"))
        else:
            with reading(str(file.path)):  # texts may be none
                texts = block.to_pylist()
            missing[file] += texts.count("")
            # As objects: an array of texts would hold each as long as the longest.
            blocks.append(np.array(texts, dtype=object))
    for file, count in missing.items():
        if count:
            raise InputError(f"{file.path}: column '{column}' has {count} empty entries; fill or remove them")
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.int64)


def _check_holds_labels(file: RowFile, column: str) -> None:
    kind, in_words = file.kind(column)
    what = f"column '{column}' in {file.path}"
    if not (_is_text(kind) or pa.types.is_integer(kind)):
        raise InputError(f"{what} holds {in_words}, not integers or texts; number the classes from 0")
    check_unpacks(8 * file.num_rows, file.stored, f"{what} unpacked")
