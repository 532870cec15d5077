"""Sets of images put together, of which nothing is copied before it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from dpvision.images.image_set import IMAGES_IN_BLOCK, ImageSet
from dpvision.images.images import Images
from dpvision.images.rows_on_disk import RowsOnDisk, kept_rows
from dpvision.images.sketch import MOST_OF_SKETCHES
from dpvision.images.units import Units


class Joined(ImageSet):
    """The images of several sets, one set after another. Their ids are new, and they have no names. Units of
    one name are one unit.

    Args:
        parts: at least one, of the same shape and classes; all with labels, or none; all with units, or none.
    """

    def __init__(self, parts: Sequence[ImageSet]) -> None:
        first = parts[0]
        labels = [part.labels for part in parts if part.labels is not None]
        self.labels = torch.cat(labels) if labels else None
        self.class_names, self.names = first.class_names, None
        self.source = " and ".join(dict.fromkeys(part.source for part in parts))
        self.ids = torch.arange(sum(map(len, parts)))
        named = [part.units.of_images for part in parts if part.units is not None]
        self.units = Units.named([name for some in named for name in some], self.source) if named else None
        self._parts = parts

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._parts[0].shape

    @property
    def converted(self) -> bool:
        return any(part.converted for part in self._parts)

    @cached_property
    def identities(self) -> Tensor:
        return torch.cat([part.identities for part in self._parts])

    @cached_property
    def sketches(self) -> Tensor | RowsOnDisk:
        parts = (some for part in self._parts for some in part.sketches.split(IMAGES_IN_BLOCK))
        return kept_rows(parts, len(self), most=MOST_OF_SKETCHES)

    def take(self, indices: Tensor) -> Tensor:
        taken = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        start = 0
        for part in self._parts:
            here = (indices >= start) & (indices < start + len(part))
            if here.any():
                taken[here] = part.take(indices[here] - start)
            start += len(part)
        return taken


ONE_MORE = "one more"
"""The name of the unit that `with_one_more` adds."""


def with_one_more(images: ImageSet, pixels: Tensor, labels: Tensor, at: int) -> ImageSet:
    """Return a set with images ``[n, C, H, W]``, labelled ``[n]``, from the place ``at`` on, from 0. Where
    there are units they are one more unit. Ids are new.
    """
    one = Images(pixels, None if images.labels is None else labels, images.class_names, images.source)
    if images.units is not None:
        one = replace(one, units=Units.named([ONE_MORE] * len(one), images.source))
    before, after = ([images.subset(some)] if some else [] for some in (range(at), range(at, len(images))))
    return Joined([*before, one, *after])
