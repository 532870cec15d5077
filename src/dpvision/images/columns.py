"""Read tables of texts (CSV, TSV, Parquet, data frames) as columns, and find those that are asked for."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpvision.images.files import check_regular, reading
from dpvision.images.parquet_rows import ParquetRows
from dpvision.images.row_file import blocks_of_all
from dpvision.privacy.errors import InputError, named_option

MOST_BYTES = 2**28
"""Largest CSV file that is read, in bytes: some millions of rows."""

FIRST_ROW = 2
"""The number of the first row of values, as spreadsheets count: the header is 1."""

USUAL_NAMES = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img"),
        *("img_path", "image_file", "image_name", "image_index"),
    ),
    "label": (
        *("label", "labels", "fine_label", "coarse_label", "class", "class_name", "target", "category"),
        *("diagnosis", "finding_labels"),
    ),
    "split": ("split", "subset", "partition"),
    "unit": tuple(
        f"{whose}{end}"
        for whose in ("patient", "subject", "participant", "person", "user", "unit")
        for end in ("", "_id", "id")
    ),
}
"""The names that columns have as a rule, in lower case, with _ for what is no letter or digit."""


@dataclass(frozen=True)
class Columns:
    """A table whose cells are texts, those that are empty "".

    Attributes:
        cells: by the columns' names, all equally many.
        source: where it came from, for messages.
    """

    cells: Mapping[str, Sequence[str]]
    source: str

    def find(self, what: str, named: str | None) -> str | None:
        """Return the name of the column of "path", "label", "split" or "unit"; see :func:`find_column`."""
        return find_column(list(self.cells), what, named, self.source)

    def needed(self, what: str, named: str | None) -> str:
        """Return likewise the name of a column that there must be. InputError where there is none."""
        found = self.find(what, named)
        if found is None:
            raise InputError(
                f"{self.source} has no column of the {what} with a usual name (it has "
                f"{_listed(self.cells)}); name it, with {named_option(f'{what}_column')}"
            )
        return found


def find_column(names: Sequence[str], what: str, named: str | None, source: str) -> str | None:
    """Return which of the columns is that of "path", "label", "split" or "unit": the one named, else the one
    with a usual name; None where there is none.

    Raises:
        InputError: there is no such column, or there are several with usual names.
    """
    if named is not None:
        if named not in names:
            raise InputError(f"{source} has no column '{named}' (it has {_listed(names)}); name one")
        return named
    usual = [name for name in names if re.sub(r"\W+", "_", name.strip().lower()) in USUAL_NAMES[what]]
    if len(usual) > 1:
        raise InputError(
            f"{source} has several columns that may be the {what} ({', '.join(usual)}); say which, with "
            f"{named_option(f'{what}_column', usual[0])}"
        )
    return usual[0] if usual else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:20]) or "none"


def columns_of(table: Any, source: str) -> Columns:
    """Return the columns of a data frame, of an Arrow table or of a mapping of sequences.

    Raises:
        InputError: it is something else, or its columns differ in length.
    """
    if hasattr(table, "to_pydict"):  # pyarrow
        table = table.to_pydict()
    if not hasattr(table, "items"):
        raise InputError(f"{source} is a {type(table).__name__}, not a table; give a data frame or a path")
    cells = {str(name): [_text(value) for value in values] for name, values in table.items()}
    if len({len(values) for values in cells.values()}) > 1:
        raise InputError(f"{source} has columns of different lengths; make them equally long")
    return Columns(cells, source)


def read_columns(path: Path) -> Columns:
    """Read a table: CSV with commas or semicolons, TSV, or Parquet without structs.

    Raises:
        InputError: it is damaged, too large, has a row with more or fewer cells than columns, or two columns
            of a name.
    """
    check_regular(path)
    if path.suffix.lower() == ".parquet":
        return _of_parquet(path)
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path} is larger than the {MOST_BYTES >> 20} MiB that are read; split it")
    with reading(str(path)):
        content = path.read_bytes()
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # as spreadsheets save "Unicode text"
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
        header, *rows = csv.reader(
            io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True
        )
    header = [name.strip() for name in header]
    if len(set(header)) < len(header):
        raise InputError(f"{path} has two columns of the same name; rename one")
    wrong = [number for number, row in enumerate(rows, FIRST_ROW) if row and len(row) != len(header)]
    if wrong:
        raise InputError(
            f"{path}: {numbered_rows(wrong)} not the {len(header)} cells of the header; mend or remove them"
        )
    # Blank lines keep their numbers, and count for nothing: they have no path, and all else is empty too.
    filled = [row or [""] * len(header) for row in rows]
    cells = {name: [row[i].strip() for row in filled] for i, name in enumerate(header)}
    return Columns(cells, str(path))


def numbered_rows(rows: Sequence[int], verb: str = "have") -> str:
    """Return the numbers of the first of some rows, and how many more there are."""
    said = ", ".join(map(str, rows[:10])) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
    one = {"have": "has", "are": "is", "name": "names"}
    return f"row {said} {one[verb]}" if len(rows) == 1 else f"rows {said} {verb}"


def _delimiter(path: Path, text: str) -> str:
    """Return what is between cells. Where commas are decimal, spreadsheets put semicolons there."""
    header = text.partition("\n")[0]
    if path.suffix.lower() == ".tsv" or ("\t" in header and "," not in header):
        return "\t"
    return ";" if ";" in header and "," not in header else ","


def _of_parquet(path: Path) -> Columns:
    file = ParquetRows(path)
    values: dict[str, list[Any]] = {name: [] for name in file.names}
    if len(values) < len(file.names):
        raise InputError(f"{path} has two columns of the same name; rename one")
    for _, name, block in blocks_of_all((file, name) for name in values):
        with reading(str(path)):  # texts may be none
            values[name] += block.to_pylist()
    return columns_of(values, str(path))


def _text(value: Any) -> str:
    """Return the text of a cell. Numbers that are whole are so written: columns with gaps are of floats."""
    if value is None or value != value:  # NaN, and pandas' NaT
        return ""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value).strip()
