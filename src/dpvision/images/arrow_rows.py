"""Arrow IPC files as files of rows. They are mapped into memory, where nothing of them is unpacked."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from dpvision.images.row_file import RowFile
from dpvision.privacy.errors import InputError

MAGIC = b"ARROW1\0\0"
"""What a file begins with that is no mere stream; the stream follows (arrow.apache.org/docs/format)."""

HEADER, CUSTOM_METADATA = 2, 4  # fields of a Message
COMPRESSION = 3  # a field of a RecordBatch


class ArrowRows(RowFile):
    """A file in Arrow's format for streams, or for files.

    Args:
        path: of a regular file.
        features: what is said of each column elsewhere; where there is nothing, the schema's metadata count.
    """

    def __init__(self, path: Path, features: Mapping[str, Any]) -> None:
        super().__init__(path)
        self._features = features

    @property
    def features(self) -> Mapping[str, Any]:
        return self._features or super().features

    def _describe(self) -> tuple[pa.Schema, int]:
        with self._opened() as (schema, batches):
            return schema, sum(batch.num_rows for batch in batches)

    def _blocks(self, column: str, field: str | None) -> Iterator[pa.Array]:
        with self._opened() as (_, batches):
            for batch in batches:
                block = batch.column(column)
                # Its values may be said to lie anywhere: pyarrow would look beyond the end of the file.
                block.validate(full=True)
                yield block if field is None else block.field(field)

    @contextmanager
    def _opened(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Open the file: its schema, and its batches of rows."""
        with pa.memory_map(str(self.path)) as file:
            file.seek(len(MAGIC) if file.read(len(MAGIC)) == MAGIC else 0)
            messages = pa.ipc.MessageReader.open_stream(file)
            schema = pa.ipc.read_schema(messages.read_next_message())
            yield schema, (self._batch(message, schema) for message in messages)

    def _batch(self, message: pa.Message, schema: pa.Schema) -> pa.RecordBatch:
        self._check_plain(message)
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate()
        return batch

    def _check_plain(self, message: pa.Message) -> None:
        """Raise InputError where a message has other rows than `datasets` writes: what is packed may unpack
        to any size, and rows that share their values likewise.
        """
        metadata = message.metadata.to_pybytes()
        root = _number(metadata, 0, "I")
        header = _field(metadata, root, HEADER)
        header += _number(metadata, header, "I")
        if (
            message.type != "record batch"
            or _field(metadata, header, COMPRESSION)
            or _field(metadata, root, CUSTOM_METADATA)  # where old versions say how it is compressed
        ):
            raise InputError(
                f"{self.path} has rows that are compressed, or in a dictionary; load it with datasets and "
                "save it again"
            )


def _field(buffer: bytes, table: int, number: int) -> int:
    """Return where a field of a table lies in a FlatBuffer (flatbuffers.dev/internals); 0: nowhere."""
    fields = table - _number(buffer, table, "i")
    at = 4 + 2 * number
    offset = _number(buffer, fields + at, "H") if at < _number(buffer, fields, "H") else 0
    return table + offset if offset else 0


def _number(buffer: bytes, at: int, kind: str) -> int:
    return struct.unpack_from(f"<{kind}", buffer, at)[0]
