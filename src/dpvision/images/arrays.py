"""Labels that a file holds as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.files import MAX_CLASSES
from dpvision.privacy.errors import InputError


def labels_from_array(array: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Return int64 [N] from integers of shape [N] or [N, 1] (MedMNIST).

    Raises:
        InputError: for any other type or shape, or numbers that int64 cannot hold.
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
    if array.size and array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise InputError(
            f"{what} has a label of {array.max()}; number the classes from 0, fewer than {MAX_CLASSES} of "
            "them"
        )
    return array.astype(np.int64)


def check_same_length(pixels: Tensor, labels: NDArray[np.int64], what: str) -> None:
    """Raise InputError unless there is one label per image."""
    if len(pixels) != len(labels):
        raise InputError(
            f"{what} has {len(pixels)} images but {len(labels)} labels; there must be one label per image"
        )
