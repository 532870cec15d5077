"""Folders of class folders: DIR/CLASS/…, or DIR/train/CLASS/… and DIR/test/CLASS/…; unlabelled: any."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

from dpvision.images.choices import Choices
from dpvision.images.class_list import named_labels
from dpvision.images.data_set import DataSet
from dpvision.images.decode import count_sizes
from dpvision.images.faults import listed
from dpvision.images.files import MAX_NESTING, SPLIT_WORDS, NoLabelsError, reading
from dpvision.images.images import Images
from dpvision.images.series import RECORDS
from dpvision.images.stack import stack
from dpvision.images.text import listing
from dpvision.images.units_file import UNITS_FILE, is_units_file, read_units_file
from dpvision.images.whose import DICOM_PATIENT, Whose, patients_of
from dpvision.privacy.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".dcm")

PROBABILITIES_FILE = "probabilities.csv"
"""The file in a folder of images that says how probable each class is for each of them."""

# Beside all names that begin with a dot.
CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX", *RECORDS, PROBABILITIES_FILE)
LONGEST_NAME = 255  # bytes, on all common file systems


class Folder(DataSet):
    """A folder of images, or one image."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is a folder, or one image."""
        return path.is_dir() or path.suffix.lower() in SUFFIXES

    @cached_property
    def splits(self) -> dict[str, Path]:
        """The splits and their folders. Where no folder named as a split holds folders, all is train.

        Raises:
            InputError: there are two folders for a split, or images beside those of the splits.
        """
        path = self.path
        if path.is_file():
            return {"train": path}
        found: dict[str, Path] = {}
        others, holds_folders = [], False
        for entry in _entries(path, path):
            split = SPLIT_WORDS.get(entry.name.lower()) if entry.is_dir() else None
            if split is None:
                others.append(entry)
            elif split in found:
                raise InputError(
                    f"{path} has both '{found[split].name}' and '{entry.name}' for {split}; remove one"
                )
            else:
                found[split] = entry
                holds_folders = holds_folders or any(inner.is_dir() for inner in _entries(entry, path))
        if not holds_folders:  # a class may be called "train": then it holds images, and no class folders
            return {"train": path}
        beside = [entry.name for entry in others if _has_images(entry, path)]
        if beside:
            named = " and ".join(folder.name for folder in found.values())
            raise InputError(
                f"{path} has images in {listing(beside)} beside the "
                f"folder{'s' * (len(found) > 1)} {named}, which as splits hold folders; move them into "
                f"these, or, if {named} is a class, move its images out of their folders or rename it"
            )
        return found

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split, in the order of the file names.

        With labels, classes are the folders, in the order of their names; they may hold folders in turn.
        Without, it is all images in the folder, at any depth.

        Raises:
            InputError: for files that are no images, since to leave them out unsaid would change the data
                set; a link that leaves the folder; a class folder without images; an image outside the class
                folders; a class that train does not have.
        """
        path, choices, folder = self.path, self.choices, self.splits[split]
        names: list[str] | None = None
        if folder.is_file():
            if labelled:
                raise NoLabelsError(
                    f"{path} is a single image without a class; give a folder of class folders"
                )
            short_names, folder = [folder.name], folder.parent
        elif labelled:
            own_names = tuple(_class_folders(self.splits.get("train", folder), path))
            folders = _class_folders(folder, path)
            names_of = {name: _names_in(folder, _files(sub, path)) for name, sub in folders.items()}
            _check_classes(names_of, None if choices.classes else own_names, folder)
            short_names = [file for of_class in names_of.values() for file in of_class]
            names = [name for name, of_class in names_of.items() for _ in of_class]
        else:
            short_names = _names_in(folder, _all_images(folder, path))
            if not short_names:
                raise InputError(
                    f"{folder} has no images in it; give a folder with some ({' '.join(SUFFIXES)})"
                )
        labels, class_names = (
            named_labels(names, own_names, choices.classes, str(folder)) if names else (None, ())
        )
        files = FilesOf(folder, short_names)
        whose = _whose(files, short_names, folder, path, choices)
        named = ((str(file), file) for file in files)
        num_bytes = sum(file.stat().st_size for file in files)
        found = stack(
            named,
            len(files),
            choices.decode,
            str(path),
            choices.conversion,
            num_bytes,
            choices.skip_unreadable,
        )
        return Images(
            found.pixels,
            None if labels is None else labels[found.kept],
            class_names,
            str(path),
            found.names(short_names),
            found.stored,
            found.left_out_of(short_names),
            units=whose.units(found, short_names, str(path)) if whose else None,
        )

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of a split by size (width, height), by headers, as far as these can be read."""
        folder = self.splits[split]
        files = [folder] if folder.is_file() else _all_images(folder, self.path)
        return count_sizes((file, str(file)) for file in files)


class FilesOf(Sequence[Path]):
    """Files by their names in a folder. A path takes many times the memory of a name, so few are made."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> FilesOf: ...
    def __getitem__(self, index: int | slice) -> Path | FilesOf:
        if isinstance(index, slice):
            return FilesOf(self._folder, self._names[index])
        return self._folder / self._names[index]


def _names_in(folder: Path, files: Sequence[Path]) -> list[str]:
    """Return the names of files in a folder, relative to it."""
    return [file.relative_to(folder).as_posix() for file in files]


def _whose(
    files: Sequence[Path], names: Sequence[str], folder: Path, root: Path, choices: Choices
) -> Whose | None:
    """Return whose the images of a split are, if that is said."""
    if choices.unit == DICOM_PATIENT:
        return patients_of(files)
    tables = [] if choices.unit or root.is_file() else _units_files(folder, root)
    if not tables:
        return None
    if len(tables) > 1:
        raise InputError(f"{listed([str(table) for table in tables])} are both there; keep one")
    whose = read_units_file(tables[0], files, choices)
    if not choices.skip_unreadable:  # else only those that can be read need one
        whose.check(names, str(folder))
    return whose


def _units_files(folder: Path, root: Path) -> list[Path]:
    """Return the tables of units of a split: one may lie in its folder, or in that of the data set."""
    places = dict.fromkeys((root, folder))
    return [entry for place in places for entry in _entries(place, root) if is_units_file(entry)]


def _all_images(folder: Path, root: Path) -> list[Path]:
    """Return all files of a split, as `_files`, but for a table of units."""
    tables = _units_files(folder, root)
    return [file for file in _files(folder, root) if file not in tables]


def _class_folders(folder: Path, root: Path) -> dict[str, Path]:
    """Return the folders in a folder by name, in order; there must be some, and no images beside them."""
    entries = list(_entries(folder, root))
    classes = {entry.name: entry for entry in entries if entry.is_dir()}
    archives = [
        str(entry)
        for entry in entries
        if entry.suffix.lower() in (".npz", ".csv", ".tsv") and not is_units_file(entry)
    ]
    if archives and not classes:
        raise NoLabelsError(
            f"{folder} has no class folders in it, but {listed(archives)}; give such a file itself"
        )
    if not classes:
        raise NoLabelsError(
            f"{folder} has no class folders in it; put the images of each class into a folder of its own"
        )
    outside = [str(entry) for entry in entries if not entry.is_dir() and entry.suffix.lower() in SUFFIXES]
    if outside:
        verb = "lies" if len(outside) == 1 else "lie"
        raise InputError(
            f"{listed(outside)} {verb} outside any class folder; move each into the folder of its class"
        )
    return classes


def _check_classes(
    names_of: Mapping[str, Sequence[str]], class_names: Sequence[str] | None, folder: Path
) -> None:
    for name, files in names_of.items():
        if class_names is not None and name not in class_names:
            raise InputError(
                f"{folder / name} is a class that the train folder does not have; rename or remove it"
            )
        if not files:
            raise InputError(f"{folder / name} is a class folder without images; fill or remove it")


def _files(folder: Path, root: Path) -> list[Path]:
    """Return all files in a folder, at any depth, in the order of their names. All should be images; which
    are not, whoever decodes them says.
    """
    files = []
    for entry in _entries(folder, root):
        files += _files(entry, root) if entry.is_dir() else [entry]
    return files


def _has_images(entry: Path, root: Path) -> bool:
    """Say whether a file is called like an image, or a folder holds such a file at any depth."""
    if entry.is_dir():
        return any(_has_images(inner, root) for inner in _entries(entry, root))
    return entry.suffix.lower() in SUFFIXES


def _entries(folder: Path, root: Path) -> Iterator[Path]:
    """List what lies in a folder, in order, less clutter. Refuses links that leave root, or may loop."""
    if len(folder.parts) - len(root.parts) > MAX_NESTING:
        raise InputError(f"{folder} lies more than {MAX_NESTING} folders deep in {root}; move it up")
    with reading(str(folder)):
        entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.name.startswith(".") or entry.name in CLUTTER:
            continue
        if entry.is_symlink():
            with reading(str(entry)):  # links that lead in a circle, before Python 3.13
                target = entry.resolve()
            if target.is_symlink():
                raise InputError(f"{entry} links to itself in the end; remove it, or copy what it is to be")
            if target.is_dir() or not target.is_relative_to(root.resolve()):
                raise InputError(
                    f"{entry} links to {target}; links to folders or out of {root} are not followed: copy it"
                )
        yield entry


def check_folder_name(class_name: str) -> None:
    """Raise InputError unless the images of a class can lie in a folder of its name, and be found again."""
    unusable = not class_name or class_name.startswith(".") or class_name in (*CLUTTER, UNITS_FILE)
    if unusable or any(c in class_name for c in "/\\\0") or len(os.fsencode(class_name)) > LONGEST_NAME:
        raise InputError(f"the class name {class_name!r} cannot be the name of a folder of images; change it")
