"""Worst-case images as canaries: what one of them adds to a sum before noise, measured.

The sum with the image, less the sum without it, is at most as long as the sensitivity, whatever the image is.
Both are known exactly, so that a single one that is longer refutes the run, without statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal, get_args

import torch
from torch import Tensor

from dpvision.images import Images, ImageSet
from dpvision.images.joined import ONE_MORE, with_one_more
from dpvision.images.units import Units
from dpvision.training import Batch, Examples, PrivateTrainer, StepKeys, UnitBatch
from dpvision.views import Pool

Place = Literal["first", "middle", "last"]
PLACES: tuple[Place, ...] = get_args(Place)

GREYS = (64, 128, 131, 192, 203)
"""Grey values of plain images. All terms of a norm are then alike, where a float32 sum may be off by most."""

TIMES = 3
"""The number of images of a unit whose images are all the same."""

Sums = Mapping[str, Tensor]


@dataclass(frozen=True)
class Contribution:
    """The change of a sum that one more image made.

    Attributes:
        share: the L2 distance of the sums with and without it, as a share of the sensitivity.
        image: what the image showed.
        label: its class, as an index; of a unit the class of the first, the others follow in turn.
        place: its position in the batch.
        step: the step of the run, from 0.
    """

    share: float
    image: str
    label: int
    place: Place
    step: int


def worst_images(private: ImageSet, pool: Pool | None = None) -> dict[str, Tensor]:
    """Return images uint8 ``[C, H, W]`` that are hard to clip right, by what they show.

    Args:
        private: images, of which one is changed.
        pool: public images that private ones are mixed with, if they are.
    """
    one = private.take(torch.tensor([0]))[0]
    noise = torch.randint(2, one.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = {"black": torch.zeros_like(one), "white": torch.full_like(one, 255)}
    found |= {f"grey {value}": torch.full_like(one, value) for value in GREYS}
    if pool is not None:
        # With a public image that looks the same, and another label, its gradient nearly cancels.
        found["grey as the most even public image"] = torch.full_like(one, round(_most_even(pool.images)))
    return found | {
        "a private image": one,
        "an inverted private image": 255 - one,
        "noise of the least contrast": 127 + noise,
    }


class WorstImages:
    """Adds worst-case images to the batches of a run, one at a time, and only to look what that changes: they
    are not trained on. It is an :class:`dpvision.training.OnBatch`.

    Every image is tried on every batch that is looked at; labels and places change by turns. Where there are
    units, it is tried as a unit of one image, of several alike, and of all of them.

    Args:
        images: the private ones.
        pool: public images that they are mixed with, if they are.
        every: looks at one of so many batches.
    """

    def __init__(self, images: ImageSet, pool: Pool | None = None, every: int = 1) -> None:
        self.largest: Contribution | None = None
        """The image that changed a sum the most so far; None before the first."""
        self._num_classes = len(images.class_names)
        found = worst_images(images, pool)
        self._worst = {name: one[None] for name, one in found.items()}
        if images.units is not None:
            self._worst |= {
                f"{name}, {TIMES} times": one.repeat(TIMES, 1, 1, 1) for name, one in found.items()
            }
            self._worst["all of these, of one unit"] = torch.stack(list(found.values()))
        self._every, self._batches = every, count()

    def __call__(
        self,
        trainer: PrivateTrainer,
        batch: Batch | UnitBatch,
        keys: StepKeys,
        encode: Callable[[ImageSet], Tensor | Examples] | None = None,
    ) -> None:
        """Look at a batch; see :class:`dpvision.training.OnBatch`."""
        step = next(self._batches)
        if step % self._every:
            return
        taken = set(batch.ids.tolist())
        own_id = next(number for number in count() if number not in taken)

        def with_one(pixels: Tensor, labels: Tensor, at: int) -> Sums:
            units = Units.named([ONE_MORE] * len(pixels), "") if isinstance(batch, UnitBatch) else None
            images = Images(pixels, None, (), "worst-case images", units=units)
            examples = encode(images) if encode else pixels
            assert isinstance(examples, Tensor), "few examples are no reason for a file"
            return trainer.clipped_sum(batch.with_one(examples, labels, own_id, at), keys).gradients

        without = trainer.clipped_sum(batch, keys).gradients
        self._compare(without, with_one, len(batch), trainer.mechanism.sensitivity, step)

    def look_at_release(
        self, images: ImageSet, sums_of: Callable[[ImageSet], Sums], sensitivity: float
    ) -> None:
        """Look at a method that releases ``sums_of(images)`` once."""

        def with_one(pixels: Tensor, labels: Tensor, at: int) -> Sums:
            return sums_of(with_one_more(images, pixels, labels, at))

        self._compare(sums_of(images), with_one, len(images), sensitivity, step=0)

    def _compare(
        self,
        without: Sums,
        with_one: Callable[[Tensor, Tensor, int], Sums],
        size: int,
        sensitivity: float,
        step: int,
    ) -> None:
        """Note what changes a sum of ``size`` examples the most, of what ``with_one`` makes of an image, or
        those of a unit, of their labels and their place.
        """
        for number, (image, pixels) in enumerate(self._worst.items()):
            turn = step // self._every + number
            label, place = turn % self._num_classes, PLACES[turn % len(PLACES)]
            at = {"first": 0, "middle": size // 2, "last": size}[place]
            labels = (label + torch.arange(len(pixels))) % self._num_classes
            share = _distance(with_one(pixels, labels, at), without) / sensitivity
            if self.largest is None or share > self.largest.share:
                self.largest = Contribution(share, image, label, place, step)


def _most_even(images: ImageSet) -> float:
    """Return the mean of the image whose pixels differ least."""
    found = [
        (float(spread), float(mean))
        for block in images.blocks()
        for spread, mean in zip(*torch.std_mean(block.double().flatten(1), dim=1, correction=0), strict=True)
    ]
    return min(found)[1]


def _distance(some: Sums, others: Sums) -> float:
    """Return the L2 distance over all tensors; infinite where one holds what is no number."""
    parts = (float((total.double() - others[name].double()).norm()) for name, total in some.items())
    found = math.hypot(*parts)
    return math.inf if math.isnan(found) else found
