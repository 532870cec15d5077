"""Parquet files as files of rows, of which no page is unpacked before it is known to what."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from dpvision.images.files import FREE_BYTES, check_expands, check_unpacks
from dpvision.images.parquet_pages import page_sizes
from dpvision.images.row_file import RowFile

ROWS_AT_ONCE = 1024
BYTES_AT_ONCE = 2**19
"""Most rows, and most bytes of them by their mean, that wait in memory at a time."""

READ_BYTES = 2**18
"""Bytes of a column that are read at a time: otherwise a whole group of rows would wait in memory, packed."""


class ParquetRows(RowFile):
    """A Parquet file."""

    def _describe(self) -> tuple[pa.Schema, int]:
        with self._open() as file:
            return file.schema_arrow, file.metadata.num_rows

    def _blocks(self, column: str, field: str | None) -> Iterator[pa.Array]:
        name = column if field is None else f"{column}.{field}"
        total, largest_dictionary = page_sizes(self.path, name)
        # Fields are images, of which few are held at a time; columns are kept whole.
        check = check_unpacks if field is None else check_expands
        check(total, self.stored, f"'{name}' in {self.path} unpacked")
        mean = total // max(1, self.num_rows)
        # Rows of the same bytes may be stored once, in a dictionary.
        most_repeated = FREE_BYTES // max(1, largest_dictionary)
        rows_at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, mean), most_repeated))
        with self._open() as file:
            for batch in file.iter_batches(rows_at_once, columns=[name]):
                block = batch.column(0) if field is None else batch.column(0).field(field)
                yield block.dictionary_decode() if pa.types.is_dictionary(block.type) else block

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path, buffer_size=READ_BYTES, pre_buffer=False)
