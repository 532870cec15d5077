"""A kind of image sets that dpvision lacks: its pixels stay in a file, and few are held at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dpvision.images import Images, ImageSet


class OnDisk(ImageSet):
    """Images of a file of bytes, image after image.

    ``largest``: the most images that were taken at once. ``taken``: how many were, in all.
    """

    def __init__(self, path: Path, images: Images) -> None:
        images.pixels.numpy().tofile(path)
        self.labels, self.class_names, self.source = images.labels, images.class_names, images.source
        self.names, self.ids = None, torch.arange(len(images))
        self.largest = self.taken = 0
        self._shape = images.shape
        self._file = np.memmap(path, np.uint8, "r", shape=(len(images), *images.shape))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    def take(self, indices: Tensor) -> Tensor:
        self.largest = max(self.largest, len(indices))
        self.taken += len(indices)
        return torch.from_numpy(self._file[indices.numpy()])
