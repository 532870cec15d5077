"""Folders that Hugging Face's `datasets` wrote by save_to_disk: a Dataset, or a DatasetDict of splits."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from dpvision.images.arrow_rows import ArrowRows
from dpvision.images.files import SPLIT_WORDS, read_json
from dpvision.images.row_file import RowFile
from dpvision.images.rows import RowFiles
from dpvision.images.text import listing
from dpvision.privacy.errors import InputError

OF_SPLITS, OF_ROWS, OF_COLUMNS = "dataset_dict.json", "state.json", "dataset_info.json"
"""The files that say which splits there are, and of each split which files hold its rows, and what its
columns are.
"""

INDICES = ("_indices_files", "_indices_data_files")
"""Where old versions say which rows are meant of those in the files, and in which order."""

LONGEST_NAME = 255  # bytes, on all common file systems


class Saved(RowFiles):
    """A folder that `datasets` wrote."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a folder with one of the files that tell what is in it."""
        return any((path / name).is_file() for name in (OF_SPLITS, OF_COLUMNS))

    @cached_property
    def splits(self) -> dict[str, list[RowFile]]:
        """The splits, each with its files in order. A Dataset by itself is train, whatever it was a part of.

        Raises:
            InputError: a file is missing or there twice, or it is not the rows of these files that are meant;
                a split is none that is known.
        """
        if not (self.path / OF_SPLITS).is_file():
            return {"train": _files(self.path)}
        names = _names(read_json(self.path / OF_SPLITS).get("splits"), self.path / OF_SPLITS)
        found: dict[str, list[RowFile]] = {}
        for name in names:
            split = SPLIT_WORDS.get(name)
            if split is None or split in found:
                raise InputError(
                    f"{self.path} has the splits {listing(names)}, which are not each one of train, val and "
                    f"test; give the folder of one, such as {self.path / names[0]}"
                )
            found[split] = _files(self.path / name)
        return found


def _files(folder: Path) -> list[RowFile]:
    """Return the files of a Dataset, in the order that its state tells."""
    if not (folder / OF_ROWS).is_file():
        raise InputError(
            f"{folder} has no {OF_ROWS}: save_to_disk of datasets did not write it, or not to its end; load "
            "it there and save it again"
        )
    state = read_json(folder / OF_ROWS)
    if any(state.get(name) for name in INDICES) or (folder / "indices.arrow").exists():
        raise InputError(
            f"{folder} is a selection of the rows that its files hold; load it with datasets and save "
            "dataset.flatten_indices()"
        )
    listed = state.get("_data_files")
    if isinstance(listed, list):
        listed = [one.get("filename") if isinstance(one, dict) else None for one in listed]
    names = _names(listed, folder / OF_ROWS)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {listing(missing)}, which holds rows of it; complete the copy")
    features = read_json(folder / OF_COLUMNS).get("features")
    return [ArrowRows(folder / name, features if isinstance(features, dict) else {}) for name in names]


def _names(found: Any, listed_in: Path) -> list[str]:
    """Return names of entries of a folder.

    Raises:
        InputError: found is no list of such, each there once.
    """
    if not (isinstance(found, list) and found and all(isinstance(name, str) for name in found)):
        raise InputError(f"{listed_in} does not list what there is; it was changed or damaged")
    if len(set(found)) < len(found) or not all(_is_inside(name) for name in found):
        raise InputError(
            f"{listed_in} lists a name twice, or one of another folder; it was changed or damaged"
        )
    return found


def _is_inside(name: str) -> bool:
    """Say whether a name is that of an entry of a folder, and not the way to another."""
    return Path(name).name == name != ".." and len(name.encode(errors="replace")) <= LONGEST_NAME
