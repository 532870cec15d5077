"""Parquet in the Hugging Face image layout: structs with encoded images, ClassLabel names in the metadata."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dpvision.images.choices import Choices
from dpvision.images.images import Images
from dpvision.images.parquet_rows import ParquetRows
from dpvision.images.row_file import RowFile
from dpvision.images.rows import read_rows, row_sizes
from dpvision.images.shards import parquet_files, shards_by_split


def recognises(path: Path) -> bool:
    """Say whether path is a file called *.parquet, or a folder with some, see `parquet_files`."""
    return bool(parquet_files(path))


def splits(path: Path, choices: Choices) -> dict[str, list[RowFile]]:
    """Return the splits, each with its shards in order; see `shards_by_split`."""
    shards = shards_by_split(path, parquet_files(path))
    return {split: [ParquetRows(file) for file in files] for split, files in shards.items()}


def read(path: Path, split: str, choices: Choices, labelled: bool) -> Images:
    """Read one split, all its shards in order. Without ClassLabel names the classes are numbered."""
    return read_rows(str(path), split, splits(path, choices), choices, labelled)


def sizes(path: Path, split: str, choices: Choices) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), by their headers, as far as these can be read."""
    return row_sizes(splits(path, choices)[split])
