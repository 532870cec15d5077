"""Find the classes of labels: those that a source names, or whoever reads it, or numbers."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.files import MAX_CLASSES, NoLabelsError
from dpvision.images.images import check_class_names
from dpvision.images.text import listing
from dpvision.privacy.errors import InputError, named_option

Classes = int | tuple[str, ...] | dict[str, str] | None
"""Classes as they were given: their number, their names, or names by label."""


def classes_given(given: Any) -> Classes:
    """Return classes in one form: see :class:`~dpvision.images.choices.Choices`.

    Raises:
        InputError: they are none.
    """
    if given is None:
        return None
    if isinstance(given, str) and (ends := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", given)):
        first, last = map(int, ends.groups())
        given = {str(label): str(label) for label in range(first, min(last, first + MAX_CLASSES) + 1)}
    elif isinstance(given, str):
        try:
            given = next(csv.reader([given], skipinitialspace=True), [])
        except csv.Error as error:
            raise InputError(f"classes must be names with commas between them ({error})") from error
        if len(given) == 1 and given[0].isascii() and given[0].isdigit():
            given = int(given[0])
        elif given and all("=" in one for one in given):
            pairs = [one.split("=", 1) for one in given]
            if len({label for label, _ in pairs}) < len(pairs):
                raise InputError("classes: a label comes twice; name the class of each once")
            given = dict(pairs)
    if isinstance(given, bool) or not isinstance(given, int | Sequence | Mapping):
        raise InputError(f"classes must be their number, their names, or names by label, not {given!r}")
    number = given if isinstance(given, int) else len(given)
    if not 1 <= number <= MAX_CLASSES:
        raise InputError(f"classes: there must be 1 to {MAX_CLASSES}, not {number}")
    if isinstance(given, int):
        return given
    names = given.values() if isinstance(given, Mapping) else given
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < number:
        raise InputError("classes: each must have a name of its own")
    return {str(label): name for label, name in given.items()} if isinstance(given, Mapping) else tuple(given)


def named_labels(
    labels: Sequence[str] | NDArray[Any], own_names: Sequence[str], given: Classes, source: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels of images, int64 [N], and the names of the classes.

    Args:
        labels: the name of each image's class, one of own_names.
        own_names: the names of the source's classes, in their order.
        given: which classes there are instead, or their order, or other names for them.

    Raises:
        InputError: an image is of a class that was not given.
    """
    if isinstance(given, int):
        raise InputError(f"{source}: its classes have names; give these for classes, and not a number")
    if len(own_names) > MAX_CLASSES:
        raise InputError(f"{source} has {len(own_names)} classes, more than {MAX_CLASSES}; join some")
    check_class_names(own_names, source)
    new_names = given if isinstance(given, dict) else {name: name for name in given or own_names}
    index = {name: i for i, name in enumerate(new_names)}
    _check_all_given(sorted(set(labels) - index.keys()), new_names, source)
    found = torch.tensor([index[label] for label in labels], dtype=torch.int64)
    return found, tuple(new_names.values())


def check_labelled(labels: NDArray[np.int64], split: str, source: str) -> NDArray[np.int64]:
    """Return the labels of a split.

    Raises:
        NoLabelsError: all are −1, which stands for none.
        InputError: some are.
    """
    missing = int((labels == -1).sum())
    if missing == len(labels) and missing:
        raise NoLabelsError(f"{source}: all labels of {split} are -1, which stands for none")
    if missing:
        raise InputError(
            f"{source}: {missing} of the {len(labels)} labels of {split} are -1, which stands for none; "
            "label these images or leave them out"
        )
    return labels


def indexed_labels(
    labels: NDArray[np.int64], split: str, own_names: Sequence[str], given: Classes, source: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Return likewise the labels of a split that are indices of own_names.

    Raises:
        NoLabelsError, InputError: as :func:`check_labelled` and :func:`named_labels`, or one is no index.
    """
    check_labelled(labels, split, source)
    if len(labels) and (labels.min() < 0 or labels.max() >= len(own_names)):
        raise InputError(
            f"{source}: labels must lie in 0..{len(own_names) - 1} (one per class that it names), found "
            f"{labels.min()}..{labels.max()}"
        )
    return named_labels([own_names[label] for label in labels], own_names, given, source)


def numbered_labels(
    labels: Mapping[str, NDArray[np.int64]], split: str, given: Classes, source: str
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels of a split's images, int64 [N], and the names of the classes, where labels are
    numbers.

    All splits count, so that one with no example of the last class still has as many classes. Labels of −1
    stand for none.

    Args:
        labels: of each split that has some.

    Raises:
        NoLabelsError: all of the split are −1.
        InputError: some are; nobody has said which classes there are, and they are not 0, 1, … without a gap;
            an image is of a class that was not given.
    """
    of_split = check_labelled(labels[split], split, source)
    present = np.unique(np.concatenate([one[one != -1] for one in labels.values()]))
    names = _names_of_numbers(present, given, source)
    numbers = {int(label): i for i, label in enumerate(names)}
    _check_all_given([str(label) for label in present.tolist() if label not in numbers], names, source)
    values, inverse = np.unique(of_split, return_inverse=True)
    index = np.array([numbers[label] for label in values.tolist()], dtype=np.int64)
    return torch.from_numpy(index[inverse].reshape(-1)), tuple(names.values())


def _names_of_numbers(present: NDArray[np.int64], given: Classes, source: str) -> dict[str, str]:
    """Return the names of classes by label, in their order."""
    if isinstance(given, dict):
        if not all(label.removeprefix("-").isdecimal() for label in given):
            raise InputError(f"{source}: its labels are numbers; give classes by number, such as 1=normal")
        return given
    if given is None:
        least, greatest = (int(present.min()), int(present.max())) if len(present) else (0, -1)
        if least < 0 or greatest >= MAX_CLASSES:
            raise InputError(
                f"{source} has labels in {least}..{greatest}; number the classes from 0, fewer than "
                f"{MAX_CLASSES} of them"
            )
        gaps = [str(label) for label in sorted(set(range(greatest + 1)) - set(present.tolist()))]
        if gaps:
            all_of_them = named_option("classes", greatest + 1)
            raise InputError(
                f"{source} has labels in {least}..{greatest}, but no image of any split has label "
                f"{listing(gaps)}; say which classes there are: {all_of_them} if these are classes too, or "
                f"{named_option('classes', _by_label(present.tolist()))}"
            )
        given = greatest + 1
    names = map(str, range(given)) if isinstance(given, int) else given
    return {str(number): name for number, name in enumerate(names)}


def _by_label(labels: Sequence[int]) -> str:
    """Return the classes of these labels, as one gives them."""
    if labels[-1] - labels[0] == len(labels) - 1:
        return f"{labels[0]}..{labels[-1]}"
    return listing([f"{label}={label}" for label in labels], ",")


def _check_all_given(others: Sequence[str], names: Mapping[str, str], source: str) -> None:
    if others:
        raise InputError(
            f"{source} has images with the labels {listing(others)}, which are not among the classes given "
            f"({listing(list(names))}); give all classes"
        )
