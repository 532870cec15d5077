"""Labels that a file holds as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.privacy.errors import InputError

MAX_CLASSES = 2**16
"""Most classes that numbered labels may imply: one stray label would make a classifier of any width."""


def labels_from_array(array: NDArray[Any], what: str) -> Tensor:
    """Return int64 [N] from integers of shape [N] or [N, 1] (MedMNIST).

    Raises:
        InputError: for any other type or shape, negative labels, or labels from MAX_CLASSES on.
    """
    if array.dtype.kind not in "iu":
        raise InputError(
            f"{what} holds {array.dtype}, not integers; number the classes from 0 and save them as integers"
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(
            f"{what} has shape {list(array.shape)}; there must be one label per image, of shape [N]"
        )
    if array.size and not (array.min() >= 0 and array.max() < MAX_CLASSES):
        raise InputError(
            f"{what} has labels in {array.min()}..{array.max()}; number the classes from 0, "
            f"fewer than {MAX_CLASSES} of them"
        )
    return torch.from_numpy(array.astype(np.int64))


def check_same_length(pixels: Tensor, labels: Tensor, what: str) -> None:
    """Raise InputError unless there is one label per image."""
    if len(pixels) != len(labels):
        raise InputError(
            f"{what} has {len(pixels)} images but {len(labels)} labels; there must be one label per image"
        )


def numbered_classes(labels_of_splits: Iterable[Tensor]) -> tuple[str, ...]:
    """Return the classes of labels that come without names: "0", "1", … up to the greatest label of any
    split.

    All splits count, so that one with no example of the last class still has as many classes.
    """
    greatest = max((int(labels.max()) for labels in labels_of_splits if len(labels)), default=-1)
    return tuple(str(i) for i in range(greatest + 1))
