"""Parquet in the Hugging Face image layout: structs with encoded images, ClassLabel names in the metadata."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from dpvision.images.parquet_rows import ParquetRows
from dpvision.images.row_file import RowFile
from dpvision.images.rows import RowFiles
from dpvision.images.shards import parquet_files, shards_by_split


class Parquet(RowFiles):
    """A Parquet file, or a folder of them."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a file called *.parquet, or a folder with some, see `parquet_files`."""
        return bool(parquet_files(path))

    @cached_property
    def splits(self) -> dict[str, list[RowFile]]:
        """The splits, each with its shards in order; see `shards_by_split`."""
        shards = shards_by_split(self.path, parquet_files(self.path))
        return {split: [ParquetRows(file) for file in files] for split, files in shards.items()}
