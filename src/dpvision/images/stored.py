"""Images in a store: their pixels stay on disk, and those that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.ahead import taken_ahead
from dpvision.images.faults import Unreadable
from dpvision.images.identity import DIGEST_BYTES
from dpvision.images.image_set import ImageSet
from dpvision.images.store_files import Content, load_array
from dpvision.images.texts import Texts
from dpvision.images.units import Units

PIXELS, IDENTITIES, LABELS, OF_UNITS = "pixels", "identities", "labels.npy", "of_units.npy"
CLASSES, NAMES, UNITS, LEFT_OUT, REASONS = "classes", "names", "units", "left_out", "reasons"
"""The files of a store; the latter are of texts."""


@dataclass(frozen=True)
class Facts:
    """What a store holds, beside its files.

    Attributes:
        count, shape: N, and (C, H, W).
        labelled, named: whether the images have labels, and names.
        units_from: what said whose images are whose; None where each is protected by itself.
        converted, pixel_digest: as of every `ImageSet`.
    """

    count: int
    shape: tuple[int, int, int]
    labelled: bool
    named: bool
    units_from: str | None
    converted: bool
    pixel_digest: str


class StoredImages(ImageSet):
    """The images of a store. What is held in memory is what is needed of each image but its pixels.

    Guarantee: they have the pixels, the digest and the identities of the same images in memory. So they are
    the same data set for ledger and index, and a method learns the same from them
    (``tests/images/test_store.py``, ``tests/methods/test_images_on_disk.py``).

    Args:
        folder: of the store. Whoever removes it meanwhile takes nothing away.
        facts: of it.
        source: see `ImageSet`.

    Raises:
        OSError: a file is missing.
    """

    def __init__(self, folder: Path, facts: Facts, source: str) -> None:
        self.folder, self.source = folder, source
        self._facts = facts
        self._pixels, self._identities = Content(folder / PIXELS), Content(folder / IDENTITIES)
        self.class_names = tuple(Texts(folder, CLASSES))
        self.labels = torch.from_numpy(load_array(folder / LABELS)) if facts.labelled else None
        self.names = Texts(folder, NAMES) if facts.named else None
        self.ids = torch.arange(facts.count)
        if facts.units_from is not None:
            of_image = torch.from_numpy(load_array(folder / OF_UNITS))
            self.units = Units(of_image, tuple(Texts(folder, UNITS)), origin=facts.units_from)
        left_out = zip(Texts(folder, LEFT_OUT), Texts(folder, REASONS), strict=True)
        self.left_out = tuple(Unreadable(*one) for one in left_out)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._facts.shape

    @property
    def converted(self) -> bool:
        return self._facts.converted

    @property
    def num_bytes(self) -> int:
        """The bytes that the store takes on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    @cached_property
    def pixel_digest(self) -> str:
        return self._facts.pixel_digest

    @cached_property
    def identities(self) -> Tensor:
        found = torch.empty(len(self), DIGEST_BYTES, dtype=torch.uint8)
        self._identities.read_into(found.numpy().data.cast("B"), 0)
        return found

    def take(self, indices: Tensor) -> Tensor:
        """Return the images at indices, int64 [n], in this order. Those that follow each other are read at
        once.
        """
        taken = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        if not len(indices):
            return taken
        if int(indices.min()) < 0 or int(indices.max()) >= len(self):
            raise IndexError(f"there are {len(self)} images, from 0 on")
        parts = _parts(taken.numpy().data.cast("B"), indices.numpy(), taken[0].numel())
        if len(parts) == 1:
            self._pixels.read_into(*parts[0])
        else:
            self._pixels.read_each(parts)
        return taken

    def take_each(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each block of indices. A thread reads the next ones meanwhile."""
        return taken_ahead(self.take, blocks)


def _parts(buffer: memoryview, chosen: NDArray[np.int64], size: int) -> list[tuple[memoryview, int]]:
    """Return the parts of a buffer that are filled by runs of indices that follow each other, images of so
    many bytes, each with the place in the file where its images begin.
    """
    begins = np.flatnonzero(np.diff(chosen, prepend=chosen[0] - 2) != 1)
    ends = [*begins[1:].tolist(), len(chosen)]
    return [
        (buffer[begin * size : end * size], index * size)
        for begin, end, index in zip(begins.tolist(), ends, chosen[begins].tolist(), strict=True)
    ]
