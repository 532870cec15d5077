"""Folders of class folders: DIR/CLASS/…, or DIR/train/CLASS/… and DIR/test/CLASS/…; unlabelled: any."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from dpvision.images.decode import Conversion, decode, encoded_size
from dpvision.images.files import MAX_NESTING, SPLIT_WORDS, NoLabelsError, check_regular, reading
from dpvision.images.images import Images
from dpvision.images.series import RECORDS
from dpvision.images.stack import stack
from dpvision.privacy.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

CLUTTER = ("Thumbs.db", "desktop.ini", "__MACOSX", *RECORDS)  # beside all names that begin with a dot
LONGEST_NAME = 255  # bytes, on all common file systems


def recognises(path: Path) -> bool:
    """Say whether path is a folder, or one image."""
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def splits(path: Path) -> dict[str, Path]:
    """Return the splits and their folders. Where no folder named as a split holds folders, all is train."""
    if path.is_file():
        return {"train": path}
    found: dict[str, Path] = {}
    for entry in _entries(path, path):
        # A class may be called "train": then the folder holds images, and no class folders.
        split = SPLIT_WORDS.get(entry.name.lower())
        if split and entry.is_dir() and any(inner.is_dir() for inner in _entries(entry, path)):
            if split in found:
                raise InputError(
                    f"{path} has both '{found[split].name}' and '{entry.name}' for {split}; remove one"
                )
            found[split] = entry
    return found or {"train": path}


def read(path: Path, split: str, conversion: Conversion, labelled: bool) -> Images:
    """Read one split, in the order of the file names.

    With labels, classes are the folders, in the order of their names; they may hold folders in turn. Without,
    it is all images in the folder, at any depth.

    Raises:
        InputError: for a file that is no image, since to leave it out unsaid would change the data set; a
            link that leaves the folder; a class folder without images; an image outside the class folders; a
            class that train does not have.
    """
    folders = splits(path)
    folder = folders[split]
    if folder.is_file():
        if labelled:
            raise NoLabelsError(f"{path} is a single image without a class; give a folder of class folders")
        pixels, stored = stack([(str(path), path)], 1, decode, str(path), conversion, path.stat().st_size)
        return Images(pixels, None, (), str(path), (path.name,), stored)
    if labelled:
        class_names = tuple(_class_folders(folders.get("train", folder), path))
        files_of = {name: _image_files(sub, path) for name, sub in _class_folders(folder, path).items()}
        _check_classes(files_of, class_names, folder)
        files = [file for of_class in files_of.values() for file in of_class]
        index = {name: i for i, name in enumerate(class_names)}
        labels = torch.tensor([index[name] for name, of_class in files_of.items() for _ in of_class])
    else:
        class_names, labels = (), None
        files = _image_files(folder, path)
        if not files:
            raise InputError(f"{folder} has no images in it; give a folder with some ({' '.join(SUFFIXES)})")
    named = ((str(file), file) for file in files)
    num_bytes = sum(file.stat().st_size for file in files)
    pixels, stored = stack(named, len(files), decode, str(path), conversion, num_bytes)
    names = tuple(file.relative_to(folder).as_posix() for file in files)
    return Images(pixels, labels, class_names, str(path), names, stored)


def sizes(path: Path, split: str) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height), by their headers."""
    folder = splits(path)[split]
    files = [folder] if folder.is_file() else _image_files(folder, path)
    return Counter(encoded_size(file, str(file)) for file in files)


def _class_folders(folder: Path, root: Path) -> dict[str, Path]:
    """Return the folders in a folder by name, in order; there must be some, and no images beside them."""
    entries = list(_entries(folder, root))
    classes = {entry.name: entry for entry in entries if entry.is_dir()}
    if not classes:
        raise NoLabelsError(
            f"{folder} has no class folders in it; put the images of each class into a folder of its own"
        )
    for entry in entries:
        if not entry.is_dir() and entry.suffix.lower() in SUFFIXES:
            raise InputError(f"{entry} lies outside any class folder; move it into the folder of its class")
    return classes


def _check_classes(files_of: Mapping[str, Sequence[Path]], class_names: Sequence[str], folder: Path) -> None:
    for name, files in files_of.items():
        if name not in class_names:
            raise InputError(
                f"{folder / name} is a class that the train folder does not have; rename or remove it"
            )
        if not files:
            raise InputError(f"{folder / name} is a class folder without images; fill or remove it")


def _image_files(folder: Path, root: Path) -> list[Path]:
    """Return all images in a folder, at any depth, in the order of their names."""
    files = []
    for entry in _entries(folder, root):
        if entry.is_dir():
            files += _image_files(entry, root)
        elif entry.suffix.lower() not in SUFFIXES:
            raise InputError(
                f"{entry} is not an image that can be read ({' '.join(SUFFIXES)}); convert or remove it"
            )
        else:
            check_regular(entry)
            files.append(entry)
    return files


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
            with reading(str(entry)):  # links that lead in a circle
                target = entry.resolve()
            if target.is_dir() or not target.is_relative_to(root.resolve()):
                raise InputError(
                    f"{entry} links to {target}; links to folders or out of {root} are not followed: copy it"
                )
        yield entry


def check_folder_name(class_name: str) -> None:
    """Raise InputError unless the images of a class can lie in a folder of its name, and be found again."""
    unusable = not class_name or class_name.startswith(".") or class_name in CLUTTER
    if unusable or any(c in class_name for c in "/\\\0") or len(os.fsencode(class_name)) > LONGEST_NAME:
        raise InputError(f"the class name {class_name!r} cannot be the name of a folder of images; change it")
