"""Tables that name images: CSV, TSV or Parquet with a column of paths, and of labels and splits."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from dpvision.images.choices import Choices, takes_choices
from dpvision.images.class_list import named_labels, numbered_labels
from dpvision.images.columns import FIRST_ROW, Columns, columns_of, numbered_rows, read_columns
from dpvision.images.decode import count_sizes
from dpvision.images.files import SPLIT_WORDS, NoLabelsError, reading
from dpvision.images.images import Images
from dpvision.images.stack import stack
from dpvision.images.whose import DICOM_PATIENT, Whose, patients_of, unit_column, with_told_units
from dpvision.privacy.errors import InputError, named_option

SUFFIXES = (".csv", ".tsv")


def recognises(path: Path) -> bool:
    """Say whether path is a file called *.csv or *.tsv, or *.parquet without a column of images."""
    if path.suffix.lower() == ".parquet" and path.is_file():
        with reading(str(path)):
            kinds = pq.read_schema(path).types
        return not any(pa.types.is_nested(kind) or pa.types.is_binary(kind) for kind in kinds)
    return path.suffix.lower() in SUFFIXES


def splits(path: Path, choices: Choices) -> dict[str, list[int]]:
    """Return the splits, each with the indices of its rows; without a column of them all is train."""
    columns = read_columns(path)
    wrong = _WrongRows(columns.source)
    found = _by_split(columns, choices, wrong)
    if not found:
        wrong.check()
    return found


def sizes(path: Path, split: str, choices: Choices) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), by their headers, as far as these can be read."""
    columns = read_columns(path)
    wrong = _WrongRows(columns.source)  # which whoever reads the images tells, all of it
    by_split = _by_split(columns, choices, wrong)
    listing = _listing(columns, path.parent, split, choices, by_split, wrong)
    return count_sizes((file, str(file)) for file in listing.files)


def read(path: Path, split: str, choices: Choices, labelled: bool) -> Images:
    """Read one split, in the order of the rows.

    Paths are relative to the table. Labels that are all whole numbers are classes by number; others are the
    names of classes, in alphabetical order.

    Raises:
        InputError: with the numbers of rows that name no file, or one that another names, or have no label.
    """
    return _read(read_columns(path), path.parent, split, choices, labelled)


@takes_choices
def images_from_table(
    table: Any,
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    labelled: bool = True,
    **choices: Any,
) -> Images:
    """Read the images that a table names.

    >>> images_from_table({"path": ["a.png", ""], "label": ["cat", "dog"]}, skip_unreadable=True)
    Traceback (most recent call last):
    dpvision.privacy.errors.InputError: the table: row 3 has no path

    Args:
        table: the path of a CSV, TSV or Parquet file, or a data frame, an Arrow table or a mapping of
            columns.
        split: as in `open_images`.
        root: what the paths are relative to; by default the folder of the file, or the working directory.
        labelled: whether there are labels.
        choices: as in `open_images`; ``path_column``, ``label_column``, ``split_column`` and ``unit_column``
            name columns.

    Raises:
        InputError: as `open_images`.
    """
    chosen = Choices.of(choices)
    if isinstance(table, str | os.PathLike):
        columns, place = read_columns(Path(table)), Path(table).parent
    else:
        columns, place = columns_of(table, "the table"), Path()
    images = _read(columns, Path(root or place), split, chosen, labelled)
    return with_told_units(images, chosen, f"{split} of {columns.source}")


@dataclass(frozen=True)
class _Listing:
    """The rows of a split: their indices, and the files that they name."""

    rows: Sequence[int]
    names: Sequence[str]
    files: Sequence[Path]


def _read(columns: Columns, root: Path, split: str, choices: Choices, labelled: bool) -> Images:
    wrong = _WrongRows(columns.source)
    by_split = _by_split(columns, choices, wrong)
    listing = _listing(columns, root, split, choices, by_split, wrong)
    cells = _label_cells(columns, split, choices, by_split, wrong) if labelled else None
    whose = _whose(columns, listing, choices, wrong)
    wrong.check()
    labels, class_names = _labels(cells, split, choices, columns.source) if cells else (None, ())
    num_bytes = sum(file.stat().st_size for file in listing.files if _exists(file))
    named = ((str(file), file) for file in listing.files)
    found = stack(
        named,
        len(listing.files),
        choices.decode,
        columns.source,
        choices.conversion,
        num_bytes,
        choices.skip_unreadable,
    )
    return Images(
        found.pixels,
        None if labels is None else labels[found.kept],
        class_names,
        columns.source,
        found.names(listing.names),
        found.stored,
        found.left_out_of(listing.names),
        units=whose.units(found, listing.names, columns.source) if whose else None,
    )


class _WrongRows:
    """What is wrong with the rows of a table, all of which is told at once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._said: list[str] = []

    def add(self, indices: Iterable[int], said: Callable[[Sequence[int]], str]) -> None:
        """Note that these rows, if there are any, are wrong, with what is said of their numbers."""
        if rows := [index + FIRST_ROW for index in sorted(indices)]:
            self._said.append(said(rows))

    def check(self) -> None:
        """Raise InputError if any is wrong."""
        if self._said:
            raise InputError(f"{self._source}: {'; '.join(self._said)}")


def _by_split(columns: Columns, choices: Choices, wrong: _WrongRows) -> dict[str, list[int]]:
    """Return the indices of the rows of each split; those that are blank, or wrong, are in none."""
    paths = columns.cells[columns.needed("path", choices.path_column)]
    column = columns.find("split", choices.split_column)
    words = columns.cells[column] if column else ["train"] * len(paths)
    splits = [SPLIT_WORDS.get(word.lower()) for word in words]
    cells = list(columns.cells.values())
    filled = [i for i in range(len(paths)) if any(column[i] for column in cells)]
    wrong.add(
        (i for i in filled if splits[i] is None),
        lambda rows: (
            f"{numbered_rows(rows)} no split in '{column}' that is known (say train, val or test, or name "
            f"another column, with {named_option('split_column')})"
        ),
    )
    wrong.add((i for i in filled if not paths[i]), lambda rows: f"{numbered_rows(rows)} no path")
    found = defaultdict(list)
    for i in filled:
        if paths[i] and splits[i] is not None:
            found[str(splits[i])].append(i)
    if not filled:
        raise InputError(f"{columns.source} has no rows; at least one image is needed")
    return dict(found)


def _listing(
    columns: Columns,
    root: Path,
    split: str,
    choices: Choices,
    by_split: Mapping[str, Sequence[int]],
    wrong: _WrongRows,
) -> _Listing:
    """Return the rows of a split. Files that are missing (unless these are left out) or named twice are
    wrong, those of other splits too.
    """
    cells = columns.cells[columns.needed("path", choices.path_column)]
    files = {i: _file(root, cells[i]) for rows in by_split.values() for i in rows}
    wrong.add(
        (i for i in files if not choices.skip_unreadable and not _exists(files[i])),
        lambda rows: (
            f"{numbered_rows(rows, 'name')} files that are not there "
            f"({', '.join(cells[i - FIRST_ROW] for i in rows[:3])}{', …' * (len(rows) > 3)}); paths are "
            f"relative to {root.absolute()}"
        ),
    )
    named: defaultdict[str, list[int]] = defaultdict(list)
    for i in sorted(files):
        named[os.path.realpath(files[i]) if _exists(files[i]) else str(files[i])].append(i)
    wrong.add(
        (i for rows in named.values() if len(rows) > 1 for i in rows),
        lambda rows: f"{numbered_rows(rows, 'name')} the same files more than once (leave one row for each)",
    )
    if split not in by_split:
        wrong.check()
        raise InputError(f"{columns.source} has no split '{split}' (it has: {', '.join(by_split)}); name one")
    rows = by_split[split]
    return _Listing(rows, [cells[i] for i in rows], [files[i] for i in rows])


def _label_cells(
    columns: Columns,
    split: str,
    choices: Choices,
    by_split: Mapping[str, Sequence[int]],
    wrong: _WrongRows,
) -> dict[str, list[str]]:
    """Return the labels of each split, as texts; those that are empty are wrong in the split that is read."""
    column = columns.find("label", choices.label_column)
    if column is None:
        columns_said = ", ".join(list(columns.cells)[:20])
        raise NoLabelsError(
            f"{columns.source} has no column of labels with a usual name (it has {columns_said}); name it, "
            f"with {named_option('label_column')}"
        )
    cells = columns.cells[column]
    empty = [i for i in by_split[split] if not cells[i]]
    if len(empty) == len(by_split[split]):
        raise NoLabelsError(f"{columns.source} has no labels of {split} in '{column}'; fill the column")
    wrong.add(empty, lambda rows: f"{numbered_rows(rows)} no label in '{column}'")
    return {name: [cells[i] for i in rows if cells[i]] for name, rows in by_split.items()}


def _whose(columns: Columns, listing: _Listing, choices: Choices, wrong: _WrongRows) -> Whose | None:
    """Return whose the images of a split are, if that is said. Rows without a unit are wrong."""
    if choices.unit == DICOM_PATIENT:
        return patients_of(listing.files)
    column = unit_column(list(columns.cells), choices, columns.source)
    if column is None:
        return None
    units = columns.cells[column]
    wrong.add(
        (i for i in listing.rows if not units[i]),
        lambda rows: (
            f"{numbered_rows(rows)} no unit in '{column}' (fill it, or protect each image by itself, with "
            f"{named_option('unit', 'image')})"
        ),
    )
    return Whose([units[i] for i in listing.rows], f"column '{column}'")


def _labels(
    labels: Mapping[str, Sequence[str]], split: str, choices: Choices, source: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels of a split, int64 [N], and the names of the classes."""
    every = [label for of_split in labels.values() for label in of_split]
    if all(re.fullmatch(r"-?\d{1,9}", label) for label in every):
        numbers = {name: np.array(of_split, dtype=np.int64) for name, of_split in labels.items()}
        return numbered_labels(numbers, split, choices.classes, source)
    return named_labels(labels[split], sorted(set(every)), choices.classes, source)


def _file(root: Path, cell: str) -> Path:
    """Return the file of a path, which may have been written on Windows."""
    file = root / cell
    if "\\" in cell and not _exists(file):
        file = root / cell.replace("\\", "/")
    return file


def _exists(file: Path) -> bool:
    with reading(str(file)):
        return file.exists()
