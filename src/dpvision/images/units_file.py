"""units.csv: a table beside class folders that says whose images are whose."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from dpvision.images.choices import Choices
from dpvision.images.columns import FIRST_ROW, numbered_rows, read_columns
from dpvision.images.whose import Whose
from dpvision.privacy.errors import InputError

UNITS_FILE = "units.csv"


def is_units_file(entry: Path) -> bool:
    """Say whether this is such a table. Who asks knows that it lies where one may."""
    return entry.name.lower() == UNITS_FILE and entry.is_file()


def read_units_file(table: Path, files: Sequence[Path], choices: Choices) -> Whose:
    """Return whose the images in some files are.

    Args:
        table: has a column of paths, relative to its folder, and one of units. It may name other files, too.
        files: those of the images.
        choices: the columns, where they have no usual names, and whether files may be missing.

    Raises:
        InputError: it is no such table; with the numbers of rows without a path or unit, of those that name
            no file, or one that another names.
    """
    columns = read_columns(table)
    paths = columns.cells[columns.needed("path", choices.path_column)]
    column = columns.needed("unit", choices.unit_column)
    units = columns.cells[column]
    places = [_place(table.parent, path) if path else "" for path in paths]
    often = Counter(places)
    rows = [row for row in range(len(paths)) if paths[row] or units[row]]
    missing = [row for row in rows if paths[row] and not os.path.isfile(places[row])]
    examples = ", ".join(paths[row] for row in missing[:3]) + ", …" * (len(missing) > 3)
    wrong = (
        ([row for row in rows if not paths[row]], "have", "no path"),
        ([row for row in rows if not units[row]], "have", f"no unit in '{column}'"),
        (
            [] if choices.skip_unreadable else missing,
            "name",
            f"files that are not there ({examples}); paths are relative to {table.parent.absolute()}",
        ),
        (
            [row for row in rows if paths[row] and often[places[row]] > 1],
            "name",
            "the same files more than once (leave one row for each)",
        ),
    )
    said = [
        f"{numbered_rows([row + FIRST_ROW for row in found], verb)} {words}"
        for found, verb, words in wrong
        if found
    ]
    if said:
        raise InputError(f"{table}: {'; '.join(said)}")
    unit_of = dict(zip(places, units, strict=True))
    return Whose([unit_of.get(os.path.abspath(file), "") for file in files], UNITS_FILE)


def units_file(rows: Iterable[tuple[str, str]]) -> bytes:
    """Return the content of such a table: a row for each image, its path and its unit."""
    text = io.StringIO()
    csv.writer(text).writerows([("path", "unit"), *rows])
    return text.getvalue().encode()


def _place(folder: Path, path: str) -> str:
    """Return where a path leads that may have been written on Windows."""
    place = os.path.abspath(folder / path)
    return place if os.path.exists(place) else os.path.abspath(folder / path.replace("\\", "/"))
