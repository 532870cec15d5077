"""Data sets that are at hand without a download."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from dpvision.images.array_stream import ImageArray
from dpvision.images.decode import Conversion
from dpvision.images.images import Images
from dpvision.images.places import BUNDLED

(DIGITS,) = BUNDLED


def recognises(path: Path) -> bool:
    """Say whether path is no path but the name of a bundled data set."""
    return str(path) in BUNDLED


def splits(path: Path) -> dict[str, int]:
    """Return the splits, each with its number of images."""
    return {"train": 1437, "test": 360}


def sizes(path: Path, split: str) -> Counter[tuple[int, int]]:
    """Count the images of a split by size (width, height)."""
    return Counter({(8, 8): splits(path)[split]})


def read(path: Path, split: str, conversion: Conversion, labelled: bool) -> Images:
    """Read scikit-learn's digits: 1,797 grey images of 8 x 8 in 17 levels (Alpaydin and Kaynak, UCI 1998).

    The split is fixed and stratified: of the images in the order of their classes every fifth is test.
    """
    from sklearn.datasets import load_digits  # here, since it takes seconds to import and few runs need it

    digits = load_digits()
    by_class = np.argsort(digits.target, kind="stable")
    is_test = np.zeros(len(by_class), dtype=bool)
    is_test[by_class[::5]] = True
    chosen = is_test if split == "test" else ~is_test
    array = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    pixels, stored = ImageArray(array.dtype, array.shape, DIGITS).read(io.BytesIO(array.data), conversion)
    return Images(
        pixels=pixels,
        labels=torch.from_numpy(digits.target[chosen].astype(np.int64)) if labelled else None,
        class_names=tuple(str(name) for name in digits.target_names) if labelled else (),
        source=DIGITS,
        stored=stored,
    )
