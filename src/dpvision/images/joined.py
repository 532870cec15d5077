"""Sets of images put together, of which nothing is copied before it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from dpvision.images.image_set import ImageSet
from dpvision.images.images import Images


class Joined(ImageSet):
    """The images of several sets, one set after another. Their ids are new, and they have no names.

    Args:
        parts: at least one, of the same shape and classes; all with labels, or none.
    """

    def __init__(self, parts: Sequence[ImageSet]) -> None:
        first = parts[0]
        labels = [part.labels for part in parts if part.labels is not None]
        self.labels = torch.cat(labels) if labels else None
        self.class_names, self.names = first.class_names, None
        self.source = " and ".join(dict.fromkeys(part.source for part in parts))
        self.ids = torch.arange(sum(map(len, parts)))
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
    def sketches(self) -> Tensor:
        return torch.cat([part.sketches for part in self._parts])

    def take(self, indices: Tensor) -> Tensor:
        taken = torch.empty(len(indices), *self.shape, dtype=torch.uint8)
        start = 0
        for part in self._parts:
            here = (indices >= start) & (indices < start + len(part))
            if here.any():
                taken[here] = part.take(indices[here] - start)
            start += len(part)
        return taken


def with_one_more(images: ImageSet, pixels: Tensor, label: int, at: int) -> ImageSet:
    """Return a set with one more image, uint8 [C, H, W], at the place ``at``, from 0. Ids are new."""
    labels = None if images.labels is None else torch.tensor([label])
    one = Images(pixels[None], labels, images.class_names, images.source)
    before, after = ([images.subset(some)] if some else [] for some in (range(at), range(at, len(images))))
    return Joined([*before, one, *after])
