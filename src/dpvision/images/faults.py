"""Gather what is wrong with the images of a data set, so that all of it is told at once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.conversion import Deep
from dpvision.images.room import Pixels
from dpvision.privacy.errors import InputError, named_option

MOST_NAMED = 10
"""The number of faults that a message names; of the others it says how many they are."""

logger = logging.getLogger("dpvision")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read: its name, and what is wrong, in a sentence. Private."""

    name: str
    reason: str


@dataclass(frozen=True)
class Stacked:
    """Images that were stacked.

    Attributes:
        pixels: uint8 [N, C, H, W].
        stored: the `stored_digests` of the images before they were converted, uint8 [N, 64], or None where
            nothing was to be converted.
        kept: which of the items these are, int64 [N], ascending.
        left_out: the others.
    """

    pixels: Tensor
    stored: Tensor | None
    kept: Tensor
    left_out: tuple[Unreadable, ...] = ()

    def names(self, of_all: Sequence[str]) -> tuple[str, ...]:
        """Return those of the items' names whose images are there."""
        if len(self.kept) == len(of_all):
            return tuple(of_all)
        return tuple(of_all[index] for index in self.kept.tolist())

    def left_out_of(self, of_all: Sequence[str]) -> tuple[Unreadable, ...]:
        """Return those that were left out under the items' names."""
        if not self.left_out:
            return ()
        kept = set(self.kept.tolist())
        names = (name for index, name in enumerate(of_all) if index not in kept)
        return tuple(replace(one, name=name) for one, name in zip(self.left_out, names, strict=True))


class Faults:
    """What is wrong with the images of a source. May be used by several threads at once.

    Args:
        source: for messages.
        count: how many images there are.
    """

    def __init__(self, source: str, count: int) -> None:
        self.source, self.count = source, count
        self._unreadable: dict[int, Unreadable] = {}
        self._shapes: Counter[tuple[int, ...]] = Counter()
        self._with_shape: dict[tuple[int, ...], str] = {}

    def of(
        self, index: int, name: str, item: Item, make: Callable[[Item, str], NDArray[Any] | Deep]
    ) -> NDArray[Any] | Deep | None:
        """Make an image, or note why it cannot be made."""
        try:
            return make(item, name)
        except InputError as error:
            self._unreadable[index] = Unreadable(name, str(error))
            return None

    def saw(self, name: str, shape: tuple[int, ...]) -> None:
        """Note the shape (C, H, W) that an image has."""
        self._shapes[shape] += 1
        self._with_shape.setdefault(shape, name)

    def check_readable(self, skip_unreadable: bool) -> None:
        """Raise InputError where an image cannot be read, unless those are left out and others are left."""
        found = [self._unreadable[index].reason for index in sorted(self._unreadable)]
        if not found:
            return
        # What each is advised by itself is said once for all.
        parts = [reason.partition("; ") for reason in found]
        short, advice = [part[0] for part in parts], list(dict.fromkeys(part[2] for part in parts if part[2]))
        if skip_unreadable and self._shapes:
            logger.warning(
                f"left out {len(found)} of the {self.count} images of {self.source}, which cannot be read "
                f"(private: do not publish): {listed(short)}"
            )
            return
        if len(found) == 1 and not skip_unreadable:
            raise InputError(found[0])
        said = "; ".join([listed(short), *advice[:MOST_NAMED]])
        raise InputError(
            f"{len(found)} of the {self.count} images of {self.source} cannot be read: {said}; or leave them "
            f"out with {named_option('skip_unreadable', True)}"
        )

    def check_shapes(self) -> None:
        """Raise InputError where images differ in shape."""
        if len(self._shapes) < 2:
            return
        found = self._shapes.most_common()
        (usual, _), (other, _) = found[:2]
        option = "channels" if usual[0] != other[0] else "size"
        said = [f"{count} like {self._with_shape[shape]}, {in_words(shape)}" for shape, count in found]
        raise InputError(
            f"{self.source} has images of {len(found)} shapes: {listed(said)}; make all alike with "
            f"{named_option(option, 1 if option == 'channels' else 32)}"
        )

    def without_unreadable(self, pixels: Pixels, stored: NDArray[np.uint8] | None) -> Stacked:
        """Return those of all images that could be read."""
        kept = torch.ones(self.count, dtype=torch.bool)
        kept[list(self._unreadable)] = False
        kept = kept.nonzero().squeeze(1)
        left_out = tuple(self._unreadable[index] for index in sorted(self._unreadable))
        of_all = None if stored is None else torch.from_numpy(stored)
        if not left_out:  # so that nothing is copied
            return Stacked(pixels.tensor(), of_all, kept)
        return Stacked(pixels.tensor(kept), None if of_all is None else of_all[kept], kept, left_out)


def listed(found: Sequence[str]) -> str:
    """Return the first of many sentences, and how many there are more."""
    more = len(found) - MOST_NAMED
    return "; ".join(found[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def in_words(shape: tuple[int, ...]) -> str:
    """Describe a shape (C, H, W)."""
    channels, height, width = shape
    return f"{'grey' if channels == 1 else 'colour'}, {width} x {height}"
