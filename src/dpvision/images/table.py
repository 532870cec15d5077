"""Tables that name images: CSV, TSV or Parquet with a column of paths, and of labels and splits."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from dpvision.images.choices import Choices, takes_choices
from dpvision.images.class_list import named_labels, numbered_labels
from dpvision.images.columns import FIRST_ROW, Columns, columns_of, numbered_rows, read_columns
from dpvision.images.data_set import DataSet
from dpvision.images.decode import count_sizes
from dpvision.images.files import SPLIT_WORDS, NoLabelsError, reading
from dpvision.images.images import Images
from dpvision.images.stack import stack
from dpvision.images.whose import DICOM_PATIENT, Whose, patients_of, unit_column, with_told_units
from dpvision.privacy.errors import InputError, named_option

SUFFIXES = (".csv", ".tsv")


class TableFile(DataSet):
    """A file with a table. Paths are relative to it."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a file called *.csv or *.tsv, or *.parquet without a column of images."""
        if path.suffix.lower() == ".parquet" and path.is_file():
            with reading(str(path)):
                kinds = pq.read_schema(path).types
            return not any(pa.types.is_nested(kind) or pa.types.is_binary(kind) for kind in kinds)
        return path.suffix.lower() in SUFFIXES

    @property
    def splits(self) -> Mapping[str, Sequence[int]]:
        """The splits, each with the indices of its rows."""
        return self._table.splits

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of a split by size (width, height), by headers, as far as these can be read."""
        return self._table.sizes(split)

    def files(self) -> list[str]:
        """Return the table, and the files that its rows name, wherever they lie."""
        return [os.path.abspath(file) for file in (self.path, *self._table.files.values())]

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split; see `Table.read`."""
        return self._table.read(split, labelled)

    @cached_property
    def _table(self) -> Table:
        return Table(read_columns(self.path), self.path.parent, self.choices)


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
    images = Table(columns, Path(root or place), chosen).read(split, labelled)
    return with_told_units(images, chosen, f"{split} of {columns.source}")


class Table:
    """A table whose rows name images. What is wrong with its rows is told at once, all of it.

    Args:
        columns: its cells.
        root: what the paths are relative to.
        choices: how it is to be read.
    """

    def __init__(self, columns: Columns, root: Path, choices: Choices) -> None:
        self.columns, self.root, self.choices = columns, root, choices
        self._wrong: list[str] = []
        self._paths = columns.cells[columns.needed("path", choices.path_column)]

    @cached_property
    def splits(self) -> dict[str, list[int]]:
        """The indices of the rows of each split; those that are blank, or wrong, are in none. Without a
        column of splits all is train.
        """
        columns, paths = self.columns, self._paths
        column = columns.find("split", self.choices.split_column)
        words = columns.cells[column] if column else ["train"] * len(paths)
        splits = [SPLIT_WORDS.get(word.lower()) for word in words]
        cells = list(columns.cells.values())
        filled = [i for i in range(len(paths)) if any(column[i] for column in cells)]
        if not filled:
            raise InputError(f"{columns.source} has no rows; at least one image is needed")
        self._note(
            (i for i in filled if splits[i] is None),
            lambda rows: (
                f"{numbered_rows(rows)} no split in '{column}' that is known (say train, val or test, or "
                f"name another column, with {named_option('split_column')})"
            ),
        )
        self._note((i for i in filled if not paths[i]), lambda rows: f"{numbered_rows(rows)} no path")
        found = defaultdict(list)
        for i in filled:
            if paths[i] and splits[i] is not None:
                found[str(splits[i])].append(i)
        if not found:
            self._check()
        return dict(found)

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of a split by size (width, height), by their headers, as far as these can be read.
        What is wrong with the rows, whoever reads the images tells.
        """
        _, files = self._listing(split)
        return count_sizes((file, str(file)) for file in files)

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split, in the order of the rows.

        Labels that are all whole numbers are classes by number; others are the names of classes, in
        alphabetical order.

        Raises:
            InputError: with the numbers of rows that name no file, or one that another names, or have no
                label.
        """
        source, choices = self.columns.source, self.choices
        names, files = self._listing(split)
        cells = self._label_cells(split) if labelled else None
        whose = self._whose(split)
        self._check()
        labels, class_names = self._labels(cells, split) if cells else (None, ())
        found = stack(
            ((str(file), file) for file in files),
            len(files),
            choices.decode,
            source,
            choices.conversion,
            sum(file.stat().st_size for file in files if _exists(file)),
            choices.skip_unreadable,
        )
        return Images(
            found.pixels,
            None if labels is None else labels[found.kept],
            class_names,
            source,
            found.names(names),
            found.stored,
            found.left_out_of(names),
            units=whose.units(found, names, source) if whose else None,
        )

    @cached_property
    def files(self) -> dict[int, Path]:
        """The files that the rows of all splits name. Those that are missing (unless these are left out) or
        named twice are wrong.
        """
        paths = self._paths
        files = {i: _file(self.root, paths[i]) for rows in self.splits.values() for i in rows}
        self._note(
            (i for i in files if not self.choices.skip_unreadable and not _exists(files[i])),
            lambda rows: (
                f"{numbered_rows(rows, 'name')} files that are not there "
                f"({', '.join(paths[i - FIRST_ROW] for i in rows[:3])}{', …' * (len(rows) > 3)}); paths are "
                f"relative to {self.root.absolute()}"
            ),
        )
        named: defaultdict[str, list[int]] = defaultdict(list)
        for i in sorted(files):
            named[os.path.realpath(files[i]) if _exists(files[i]) else str(files[i])].append(i)
        self._note(
            (i for rows in named.values() if len(rows) > 1 for i in rows),
            lambda rows: (
                f"{numbered_rows(rows, 'name')} the same files more than once (leave one row for each)"
            ),
        )
        return files

    def _listing(self, split: str) -> tuple[list[str], list[Path]]:
        """Return what the rows of a split call their files, and these."""
        files = self.files
        if split not in self.splits:
            self._check()
            raise InputError(
                f"{self.columns.source} has no split '{split}' (it has: {', '.join(self.splits)}); name one"
            )
        rows = self.splits[split]
        return [self._paths[i] for i in rows], [files[i] for i in rows]

    def _label_cells(self, split: str) -> dict[str, list[str]]:
        """Return the labels of each split, as texts; in the split that is read none may be empty."""
        columns = self.columns
        column = columns.find("label", self.choices.label_column)
        if column is None:
            columns_said = ", ".join(list(columns.cells)[:20])
            raise NoLabelsError(
                f"{columns.source} has no column of labels with a usual name (it has {columns_said}); name "
                f"it, with {named_option('label_column')}"
            )
        cells = columns.cells[column]
        empty = [i for i in self.splits[split] if not cells[i]]
        if len(empty) == len(self.splits[split]):
            raise NoLabelsError(f"{columns.source} has no labels of {split} in '{column}'; fill the column")
        self._note(empty, lambda rows: f"{numbered_rows(rows)} no label in '{column}'")
        return {name: [cells[i] for i in rows if cells[i]] for name, rows in self.splits.items()}

    def _whose(self, split: str) -> Whose | None:
        """Return whose the images of a split are, if that is said. Rows without a unit are wrong."""
        if self.choices.unit == DICOM_PATIENT:
            return patients_of(self._listing(split)[1])
        column = unit_column(list(self.columns.cells), self.choices, self.columns.source)
        if column is None:
            return None
        units, rows = self.columns.cells[column], self.splits[split]
        self._note(
            (i for i in rows if not units[i]),
            lambda rows: (
                f"{numbered_rows(rows)} no unit in '{column}' (fill it, or protect each image by itself, "
                f"with {named_option('unit', 'image')})"
            ),
        )
        return Whose([units[i] for i in rows], f"column '{column}'")

    def _labels(self, cells: Mapping[str, Sequence[str]], split: str) -> tuple[Tensor, tuple[str, ...]]:
        """Return the labels of a split, int64 [N], and the names of the classes."""
        source, classes = self.columns.source, self.choices.classes
        every = [label for of_split in cells.values() for label in of_split]
        if all(re.fullmatch(r"-?\d{1,9}", label) for label in every):
            numbers = {name: np.array(of_split, dtype=np.int64) for name, of_split in cells.items()}
            return numbered_labels(numbers, split, classes, source)
        return named_labels(cells[split], sorted(set(every)), classes, source)

    def _note(self, indices: Iterable[int], said: Callable[[Sequence[int]], str]) -> None:
        """Note that these rows, if there are any, are wrong, with what is said of their numbers."""
        if rows := [index + FIRST_ROW for index in sorted(indices)]:
            self._wrong.append(said(rows))

    def _check(self) -> None:
        """Raise InputError if any row is wrong."""
        if self._wrong:
            raise InputError(f"{self.columns.source}: {'; '.join(self._wrong)}")


def _file(root: Path, cell: str) -> Path:
    """Return the file of a path, which may have been written on Windows."""
    file = root / cell
    if "\\" in cell and not _exists(file):
        file = root / cell.replace("\\", "/")
    return file


def _exists(file: Path) -> bool:
    with reading(str(file)):
        return file.exists()
