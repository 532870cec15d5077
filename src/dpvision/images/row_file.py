"""Files of rows with encoded images, in the form that Hugging Face's libraries give them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from dpvision.images.files import check_regular, most_unpacked, parse_json, reading
from dpvision.privacy.errors import InputError


class RowFile(ABC):
    """A file of rows, whose columns are read one at a time and a block of rows at a time.

    Args:
        path: of a regular file. It is opened when something of it is asked for, and closed afterwards: a data
            set may have more files than a process may hold open.
    """

    def __init__(self, path: Path) -> None:
        check_regular(path)
        self.path = path

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        with reading(str(self.path)):  # they may be no text
            return self._described[0].names

    @property
    def num_rows(self) -> int:
        """How many rows the file states."""
        return self._described[1]

    @property
    def stored(self) -> int:
        """The size of the file in bytes."""
        return self.path.stat().st_size

    @property
    def features(self) -> Mapping[str, Any]:
        """What Hugging Face's libraries say of each column, in the metadata of the schema."""
        metadata = self._described[0].metadata or {}
        if b"huggingface" not in metadata:
            return {}
        with reading(f"the metadata of {self.path}"):
            return parse_json(metadata[b"huggingface"])["info"]["features"]

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Return the names of the classes that a column has the numbers of, if they are said (ClassLabel)."""
        with reading(f"the metadata of {self.path}"):
            feature = self.features.get(column, {})
            return tuple(str(name) for name in feature["names"]) if "names" in feature else None

    def kind(self, column: str) -> tuple[pa.DataType, str]:
        """Return the type of the values of a column, and the same in words."""
        with reading(str(self.path)):  # there may be two of that name
            kind = self._described[0].field(column).type
            return kind, str(kind)

    def blocks(self, column: str, field: str | None = None) -> Iterator[pa.Array]:
        """Yield the values of a column, or of a field of its structs, in order and some at a time.

        Raises:
            InputError: the file is damaged, or would unpack to far more than it can hold.
        """
        blocks = self._blocks(column, field)
        while True:
            with reading(str(self.path)):
                block = next(blocks, None)
            if block is None:
                return
            yield block

    @cached_property
    def _described(self) -> tuple[pa.Schema, int]:
        with reading(str(self.path)):
            return self._describe()

    @abstractmethod
    def _describe(self) -> tuple[pa.Schema, int]:
        """Return the schema and the number of rows. May raise anything about a damaged file."""

    @abstractmethod
    def _blocks(self, column: str, field: str | None) -> Iterator[pa.Array]:
        """Yield blocks as `blocks` does. May raise anything about a damaged file."""


def blocks_of_all(
    columns: Iterable[tuple[RowFile, str]], field: str | None = None
) -> Iterator[tuple[RowFile, str, pa.Array]]:
    """Yield the blocks of some columns of some files, each with its file and the column's name.

    Args:
        columns: the columns, with their files.
        field: as for `RowFile.blocks`.

    Raises:
        InputError: as `RowFile.blocks`, or they are far more than the files can hold: rows of the same bytes
            may be stored once, in a dictionary.
    """
    columns, unpacked = list(columns), 0
    most = most_unpacked(sum(file.stored for file in {file for file, _ in columns}))
    for file, column in columns:
        for block in file.blocks(column, field):
            unpacked += block.nbytes
            if unpacked > most:
                raise InputError(f"{file.path} holds the same bytes too often; it may be damaged: replace it")
            yield file, column, block
