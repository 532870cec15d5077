"""Find the Parquet files of a data set, as the Hugging Face Hub lays them out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpvision.images.files import SPLIT_WORDS, reading
from dpvision.privacy.errors import InputError

FILE_NAME = re.compile(rf"(?:.*[-_.])?({'|'.join(SPLIT_WORDS)})(?:-(\d+)-of-(\d+).*)?\.parquet")
NUMBERED = re.compile(r"(\d{4,5})\.parquet")

PLAIN = "data"
"""The folder in which data sets of one configuration are kept; others have one called as it is."""


@dataclass(frozen=True)
class Shard:
    """A Parquet file of a data set.

    Attributes:
        split: its split; None where neither its name nor that of its folder says one.
        number, of: its own number among those of the split, from 0, and how many there are; 0 of 1 for a
            split of one file, None where a name does not say how many.
    """

    file: Path
    split: str | None
    number: int = 0
    of: int | None = 1


def parquet_files(path: Path) -> list[Path]:
    """Return the Parquet files of a data set: the file itself; those in a folder
    (train-00000-of-00002.parquet, …), in its folder "data", or in that of its one configuration, there also
    in folders of splits (default/train/0000.parquet).

    Raises:
        InputError: there are several configurations.
    """
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".parquet" else []
    with reading(str(path)):
        found = sorted(path.glob("*.parquet")) or _of_configuration(path)
        if found:
            return found
        folders = sorted(
            entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
    configurations = {folder: files for folder in folders if (files := _of_configuration(folder))}
    plain = [folder for folder in configurations if folder.name == PLAIN]
    if len(configurations) > 1 and not plain:
        names = ", ".join(folder.name for folder in configurations)
        raise InputError(
            f"{path} has several configurations ({names}); give one of them, such as "
            f"{next(iter(configurations))}"
        )
    return next((configurations[folder] for folder in plain or configurations), [])


def _of_configuration(folder: Path) -> list[Path]:
    """Return the files whose names, or whose folders' names, say their split."""
    named = [file for file in sorted(folder.glob("*.parquet")) if FILE_NAME.fullmatch(file.name)]
    in_splits = [
        file
        for file in sorted(folder.glob("*/*.parquet"))
        if file.parent.name in SPLIT_WORDS and NUMBERED.fullmatch(file.name)
    ]
    return named or in_splits


def shards_by_split(path: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the splits of some files, each with its shards in order. One file that says no split is train.

    Raises:
        InputError: if it is unclear which split a file belongs to, or a shard is missing or there twice.
    """
    found: dict[str, list[Shard]] = {}
    for file in files:
        shard = _shard(file)
        if shard.split is None and len(files) > 1:
            raise InputError(f"{file} does not say its split; call it like train-00000-of-00004.parquet")
        found.setdefault(shard.split or "train", []).append(shard)
    if path.is_dir():  # of a file named by itself only that file is wanted
        for split, shards in found.items():
            whole = [(number, len(shards)) for number in range(len(shards))]
            if [(shard.number, shard.of or len(shards)) for shard in shards] != whole:
                names = ", ".join(shard.file.name for shard in shards)
                raise InputError(
                    f"{path} has not every shard of {split} exactly once ({names}); complete the download"
                )
    return {split: [shard.file for shard in shards] for split, shards in found.items()}


def _shard(file: Path) -> Shard:
    match, numbered = FILE_NAME.fullmatch(file.name), NUMBERED.fullmatch(file.name)
    if match:
        split = SPLIT_WORDS[match[1]]
        return Shard(file, split, int(match[2]), int(match[3])) if match[2] else Shard(file, split)
    if numbered and file.parent.name in SPLIT_WORDS:
        return Shard(file, SPLIT_WORDS[file.parent.name], int(numbered[1]), None)
    return Shard(file, None)
