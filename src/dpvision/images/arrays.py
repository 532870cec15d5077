"""Images and labels that a file holds as plain arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.decode import Conversion
from dpvision.images.stack import stack
from dpvision.privacy.errors import InputError

MAX_CLASSES = 2**16
"""More classes than numbered labels may imply: one stray label would make a classifier of any width."""


def pixels_from_array(array: NDArray[Any], conversion: Conversion, what: str) -> tuple[Tensor, str | None]:
    """uint8 [N, C, H, W] from uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3.

    And, where they were converted, `digest_of` the images before.

    Raises:
        InputError: for any other type or shape.
    """
    if array.dtype != np.uint8:
        raise InputError(
            f"{what} holds {array.dtype}, not uint8; scale the pixels to 0..255 and save them "
            "with .astype(np.uint8)"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):  # NumPy's habit, so it goes before [N, C, H, W]
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim != 4 or array.shape[1] not in (1, 3):
        raise InputError(
            f"{what} has shape {list(array.shape)}; images must be [N, H, W], [N, H, W, C] or [N, C, H, W] "
            "with C 1 or 3"
        )
    if array.size == 0:
        raise InputError(f"{what} holds no images; at least one is needed")
    if conversion.keeps(array.shape[1:]):
        return torch.from_numpy(np.ascontiguousarray(array)), None
    named = ((f"{what}, image {i}", image) for i, image in enumerate(array))
    return stack(named, len(array), lambda image, _: image, what, conversion)


def labels_from_array(array: NDArray[Any], what: str) -> Tensor:
    """int64 [N] from integers of shape [N] or [N, 1] (MedMNIST).

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
    """Raises InputError unless there is one label per image."""
    if len(pixels) != len(labels):
        raise InputError(
            f"{what} has {len(pixels)} images but {len(labels)} labels; there must be one label per image"
        )


def numbered_classes(labels_of_splits: Iterable[Tensor]) -> tuple[str, ...]:
    """The classes of labels that come without names: "0", "1", … up to the greatest label of any split.

    All splits count, so that one with no example of the last class still has as many classes.
    """
    greatest = max((int(labels.max()) for labels in labels_of_splits if len(labels)), default=-1)
    return tuple(str(i) for i in range(greatest + 1))
