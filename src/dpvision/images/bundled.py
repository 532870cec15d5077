"""Data sets that are at hand without a download."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from dpvision.images.array_stream import ImageArray
from dpvision.images.class_list import numbered_labels
from dpvision.images.data_set import DataSet
from dpvision.images.images import Images
from dpvision.images.places import BUNDLED

(DIGITS,) = BUNDLED


class Bundled(DataSet):
    """Scikit-learn's digits: 1,797 grey images of 8 x 8 in 17 levels (Alpaydin and Kaynak, UCI 1998)."""

    splits: ClassVar[Mapping[str, int]] = {"train": 1437, "test": 360}

    @staticmethod
    def recognises(path: Path) -> bool:
        """Say whether path is no path but the name of a bundled data set."""
        return str(path) in BUNDLED

    def sizes(self, split: str) -> Counter[tuple[int, int]]:
        """Count the images of a split by size (width, height)."""
        return Counter({(8, 8): self.splits[split]})

    def read(self, split: str, labelled: bool) -> Images:
        """Read one split. These are fixed and stratified: of the images in the order of their classes every
        fifth is test.
        """
        from sklearn.datasets import load_digits  # here, since it takes seconds and few runs need it

        digits = load_digits()
        by_class = np.argsort(digits.target, kind="stable")
        is_test = np.zeros(len(by_class), dtype=bool)
        is_test[by_class[::5]] = True
        chosen = is_test if split == "test" else ~is_test
        array = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
        stream = io.BytesIO(array.data)
        found = ImageArray(array.dtype, array.shape, DIGITS).read(stream, self.choices.conversion)
        if not labelled:
            return Images(found.pixels, None, (), DIGITS, stored=found.stored)
        numbers = {split: digits.target[chosen].astype(np.int64)}
        labels, class_names = numbered_labels(numbers, split, self.choices.classes, DIGITS)
        return Images(found.pixels, labels, class_names, DIGITS, stored=found.stored)
