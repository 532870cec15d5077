"""Tables that name images: CSV, TSV or Parquet with a column of paths, and of labels and splits."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from dpvision.images.choices import Choices
from dpvision.images.class_list import named_labels, numbered_labels
from dpvision.images.columns import FIRST_ROW, Columns, columns_of, numbered_rows, read_columns
from dpvision.images.decode import count_sizes
from dpvision.images.files import SPLIT_WORDS, NoLabelsError, reading
from dpvision.images.images import Images
from dpvision.images.stack import stack
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
    return _splits(read_columns(path), choices)


def sizes(path: Path, split: str, choices: Choices) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), by their headers, as far as these can be read."""
    listing = _listing(read_columns(path), path.parent, split, choices)
    return count_sizes((file, str(file)) for file in listing.files)


def read(path: Path, split: str, choices: Choices, labelled: bool) -> Images:
    """Read one split, in the order of the rows.

    Paths are relative to the table. Labels that are all whole numbers are classes by number; others are the
    names of classes, in alphabetical order.

    Raises:
        InputError: with the numbers of rows that name no file, or one that another names, or have no label.
    """
    return _read(read_columns(path), path.parent, split, choices, labelled)


def images_from_table(
    table: Any,
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    labelled: bool = True,
    **choices: Any,
) -> Images:
    """Read the images that a table names.

    >>> images_from_table({"path": ["a.png", "a.png"], "label": ["cat", "dog"]})
    Traceback (most recent call last):
    dpvision.privacy.errors.InputError: the table: rows 2, 3 name files that are not there (a.png, a.png); ...

    Args:
        table: the path of a CSV, TSV or Parquet file, or a data frame, an Arrow table or a mapping of
            columns.
        split: as in `open_images`.
        root: what the paths are relative to; by default the folder of the file, or the working directory.
        labelled: whether there are labels.
        choices: as in `open_images`; ``path_column``, ``label_column`` and ``split_column`` name columns.

    Raises:
        InputError: as `open_images`.
    """
    chosen = Choices.of(choices)
    if isinstance(table, str | os.PathLike):
        columns = read_columns(Path(table))
        return _read(columns, Path(root or Path(table).parent), split, chosen, labelled)
    return _read(columns_of(table, "the table"), Path(root or "."), split, chosen, labelled)


@dataclass(frozen=True)
class _Listing:
    """The rows of a split: their indices, and the files that they name."""

    rows: Sequence[int]
    names: Sequence[str]
    files: Sequence[Path]


def _read(columns: Columns, root: Path, split: str, choices: Choices, labelled: bool) -> Images:
    listing = _listing(columns, root, split, choices)
    labels, class_names = _labels(columns, split, choices) if labelled else (None, ())
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
    )


def _splits(columns: Columns, choices: Choices) -> dict[str, list[int]]:
    paths = columns.cells[columns.needed("path", choices.path_column)]
    column = columns.find("split", choices.split_column)
    of_rows = (
        [SPLIT_WORDS.get(cell.lower()) for cell in columns.cells[column]]
        if column
        else ["train"] * len(paths)
    )
    blank = _blank(columns)
    _refuse_rows(
        columns,
        [i for i, split in enumerate(of_rows) if split is None and not blank(i)],
        lambda rows: (
            f"{numbered_rows(rows)} no split in '{column}' that is known; say train, val or test, or "
            f"name another column, with {named_option('split_column')}"
        ),
    )
    _refuse_rows(
        columns,
        [i for i, path in enumerate(paths) if not path and not blank(i)],
        lambda rows: f"{numbered_rows(rows)} no path; mend or remove {_them(rows)}",
    )
    found = defaultdict(list)
    for i, split in enumerate(of_rows):
        if not blank(i):
            found[str(split)].append(i)
    if not found:
        raise InputError(f"{columns.source} has no rows; at least one image is needed")
    return dict(found)


def _blank(columns: Columns) -> Callable[[int], bool]:
    cells = list(columns.cells.values())
    return lambda i: not any(column[i] for column in cells)


def _listing(columns: Columns, root: Path, split: str, choices: Choices) -> _Listing:
    """Return the rows of a split. Files that are missing (unless these are left out) or named twice are
    refused, those of other splits too.
    """
    by_split = _splits(columns, choices)
    if split not in by_split:
        raise InputError(f"{columns.source} has no split '{split}' (it has: {', '.join(by_split)}); name one")
    cells = columns.cells[columns.needed("path", choices.path_column)]
    files = {i: _file(root, cells[i]) for rows in by_split.values() for i in rows}
    _refuse_rows(
        columns,
        [] if choices.skip_unreadable else sorted(i for i in files if not _exists(files[i])),
        lambda rows: (
            f"{numbered_rows(rows, 'name')} files that are not there "
            f"({', '.join(cells[i - FIRST_ROW] for i in rows[:3])}{', …' * (len(rows) > 3)}); mend the "
            f"paths, which are relative to {root.absolute()}, or remove {_them(rows)}"
        ),
    )
    named: defaultdict[str, list[int]] = defaultdict(list)
    for i in sorted(files):
        named[os.path.realpath(files[i])].append(i)
    _refuse_rows(
        columns,
        sorted(i for rows in named.values() if len(rows) > 1 for i in rows),
        lambda rows: f"{numbered_rows(rows, 'name')} the same files more than once; leave one row for each",
    )
    rows = by_split[split]
    return _Listing(rows, [cells[i] for i in rows], [files[i] for i in rows])


def _file(root: Path, cell: str) -> Path:
    """Return the file of a path, which may have been written on Windows."""
    file = root / cell
    if "\\" in cell and not _exists(file):
        file = root / cell.replace("\\", "/")
    return file


def _exists(file: Path) -> bool:
    with reading(str(file)):
        return file.exists()


def _labels(columns: Columns, split: str, choices: Choices) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels of a split, int64 [N], and the names of the classes."""
    column = columns.find("label", choices.label_column)
    if column is None:
        columns_said = ", ".join(list(columns.cells)[:20])
        raise NoLabelsError(
            f"{columns.source} has no column of labels with a usual name (it has {columns_said}); name it, "
            f"with {named_option('label_column')}"
        )
    by_split, cells = _splits(columns, choices), columns.cells[column]
    empty = [i for i in by_split[split] if not cells[i]]
    if len(empty) == len(by_split[split]):
        raise NoLabelsError(f"{columns.source} has no labels of {split} in '{column}'; fill the column")
    _refuse_rows(
        columns,
        empty,
        lambda rows: f"{numbered_rows(rows)} no label in '{column}'; fill or remove {_them(rows)}",
    )
    labels = {name: [cells[i] for i in rows if cells[i]] for name, rows in by_split.items()}
    every = [label for of_split in labels.values() for label in of_split]
    if all(re.fullmatch(r"-?\d{1,9}", label) for label in every):
        numbers = {name: np.array(of_split, dtype=np.int64) for name, of_split in labels.items()}
        return numbered_labels(numbers, split, choices.class_list, columns.source)
    return named_labels(labels[split], sorted(set(every)), choices.class_list, columns.source)


def _refuse_rows(columns: Columns, wrong: Sequence[int], said: Callable[[Sequence[int]], str]) -> None:
    """Raise InputError where there are rows that are wrong, of these indices, with what is said of their
    numbers.
    """
    if wrong:
        raise InputError(f"{columns.source}: {said([i + FIRST_ROW for i in wrong])}")


def _them(rows: Sequence[int]) -> str:
    return "it" if len(rows) == 1 else "them"
