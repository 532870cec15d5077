"""Examples to train on, wherever they lie, and batches of them, of which only some are held at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.images.images import rows
from dpvision.images.units import Units
from dpvision.privacy.by_example import ExampleDraws, ExampleKey

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Where a policy takes all images of a unit, they are filled up to the next of these, for each number of rows
has a plan of its own: at most a third of the rows is blank.
"""
MOST_OF_A_UNIT = WIDTHS[-1]
"""So many at most are taken: of a larger unit others each time."""


class Examples(Protocol):
    """What a trainer learns from: a :class:`dpvision.images.ImageSet`, or :class:`Rows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Tensor:
        """Return the examples at indices, int64 ``[n]``, in this order: ``[n, *shape]``."""

    def take_each(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the examples of several blocks of indices, as ``take`` gives them; where they are on a disk,
        those of the next blocks may be read meanwhile.
        """


class Rows:
    """Examples that are the rows of a tensor ``[N, …]``, such as features."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._tensor.shape[1:])

    def __len__(self) -> int:
        return len(self._tensor)

    def take(self, indices: Tensor) -> Tensor:
        """Return rows; no copy of consecutive ones, for all of them may be gigabytes of features."""
        return rows(self._tensor, indices)

    def take_each(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        return map(self.take, blocks)


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Some of the examples there are, with the labels and the ids of these.

    Attributes:
        examples: all that there are.
        indices: int64 ``[B]``, which of them.
        labels, ids: int64 ``[B]``.
    """

    examples: Examples
    indices: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def blocks(self, size: int, choosing: ExampleKey) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield examples ``[n, …]``, labels and ids ``[n]``, with n = size or fewer in the last block. An
        empty batch is one empty block. Nothing is drawn by ``choosing``.
        """
        examples = self.examples.take_each(self.indices.split(size))
        yield from zip(examples, self.labels.split(size), self.ids.split(size), strict=True)

    def with_one(self, examples: Tensor, labels: Tensor, own_id: int, at: int) -> Batch:
        """Return this batch with one more example ``[1, …]``, labelled ``[1]``, at the place ``at``."""
        others = self.examples.take(self.indices)
        return Batch(
            Rows(_inserted(others, examples.to(others), at)),
            torch.arange(len(self) + 1),
            _inserted(self.labels, labels.to(self.labels), at),
            _inserted(self.ids, self.ids.new_tensor([own_id]), at),
        )


@dataclass(frozen=True, eq=False, repr=False)
class UnitBatch:
    """Some of the units there are, whose images become one gradient each.

    Guarantee: which images of a unit are in a block, and what they count, follows from that unit, its id and
    the key. ``tests/training/test_unit_batch.py`` takes units away and moves them.

    Attributes:
        examples, labels: of all images, or what was made of them; int64 ``[N]``.
        units: of all images.
        indices: int64 ``[B]``, which units.
        num_classes: K, public.
        images: how many of each unit are taken: distinct ones, or where it has fewer, each as often as is
            drawn. None takes all, up to `MOST_OF_A_UNIT`.
    """

    examples: Examples
    labels: Tensor
    units: Units
    indices: Tensor
    num_classes: int
    images: int | None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ids(self) -> Tensor:
        """The ids of the units, in the order in which `blocks` has them, int64 ``[B]``."""
        return self.units.ids[torch.cat([units for units, _ in self._alike])]

    def blocks(self, size: int, choosing: ExampleKey) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield images of units ``[n, M, …]``, their targets and the units' ids ``[n]``, with about ``size``
        images in a block, at least those of one unit.

        The targets ``[n, M, K]`` are one-hot rows times what the image counts: M times its share of the unit,
        so that the mean over M is that of the unit. Where all images of a unit are taken, M is one of
        `WIDTHS`, and rows that fill it up count nothing. An empty batch is one empty block.

        Args:
            size: see above.
            choosing: draws which images are taken.
        """
        to_read, to_yield = itertools.tee(self._chosen(size, choosing))
        examples = self.examples.take_each(indices.flatten() for indices, _, _ in to_read)
        for some, (indices, targets, ids) in zip(examples, to_yield, strict=True):
            yield some.unflatten(0, indices.shape), targets, ids

    def with_one(self, examples: Tensor, labels: Tensor, own_id: int, at: int) -> UnitBatch:
        """Return this batch with one more unit, of examples ``[n, …]``, labelled ``[n]``: before all images
        of the others, or behind them where ``at`` is not 0.
        """
        images = torch.isin(self.units.of_image, self.indices).nonzero().squeeze(1)
        others, place = self.units.subset(images), 0 if at == 0 else len(images)
        taken = self.examples.take(images)
        of_image = _inserted(others.of_image, torch.full((len(examples),), len(others)), place)
        units = Units(of_image, (*others.names, ""), torch.cat([others.ids, torch.tensor([own_id])]))
        return UnitBatch(
            Rows(_inserted(taken, examples.to(taken), place)),
            _inserted(self.labels[images.to(self.labels.device)], labels.to(self.labels), place),
            units,
            torch.arange(len(units)),
            self.num_classes,
            self.images,
        )

    @cached_property
    def _alike(self) -> list[tuple[Tensor, int]]:
        """The units by how many rows each takes, with that number; of an empty batch one empty block."""
        if self.images is not None or not len(self):
            return [(self.indices, self.images or 1)]
        sizes = self.units.sizes[self.indices].clamp(max=MOST_OF_A_UNIT)
        widths = torch.tensor(WIDTHS)[torch.bucketize(sizes, torch.tensor(WIDTHS))]
        return [(self.indices[widths == width], width) for width in widths.unique().tolist()]

    def _chosen(self, size: int, choosing: ExampleKey) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield, as `blocks` does, the indices of images ``[n, M]`` in place of these, targets and ids."""
        for units, width in self._alike:
            for some in units.split(max(1, size // width)):
                ids = self.units.ids[some]
                positions, counts = self._rows(self.units.sizes[some], width, choosing.of(ids))
                indices = self.units.images_at(some, positions)
                targets = F.one_hot(self.labels[indices.to(self.labels.device)], self.num_classes)
                yield indices, targets * counts.to(targets.device)[:, :, None], ids

    def _rows(self, sizes: Tensor, width: int, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        """Return which images of units of these sizes ``[n]`` are in their ``width`` rows, and what each row
        counts, float32: ``[n, width]``.
        """
        sizes, in_order = sizes[:, None], torch.arange(width).expand(len(sizes), width)
        if self.images is None:
            positions, counts = (
                in_order.minimum(sizes - 1),
                (in_order < sizes) * (width / sizes.clamp(max=width)),
            )
            if width == MOST_OF_A_UNIT:
                positions = torch.where(sizes > width, _distinct(sizes, draws.uniform(width)), positions)
            return positions, counts
        uniform = draws.uniform(width)
        any_of_them = (uniform.double() * sizes).long()
        positions = torch.where(sizes < width, any_of_them, _distinct(sizes, uniform))
        return positions, torch.ones(positions.shape)


def _distinct(sizes: Tensor, uniform: Tensor) -> Tensor:
    """Draw as many distinct numbers from 0 to each of ``sizes`` ``[n, 1]`` as there are uniform numbers
    ``[n, count]``, every choice as likely (Floyd's algorithm). Of smaller sizes the result means
    nothing.
    """
    count = uniform.shape[1]
    chosen = torch.zeros(uniform.shape, dtype=torch.int64)
    for place in range(count):
        last = sizes[:, 0] - count + place
        drawn = (uniform[:, place].double() * (last + 1)).long()
        is_taken = (chosen[:, :place] == drawn[:, None]).any(dim=1)
        chosen[:, place] = torch.where(is_taken, last, drawn)
    return chosen


def _inserted(tensor: Tensor, some: Tensor, at: int) -> Tensor:
    """Return a tensor ``[N, …]`` with more rows ``[n, …]`` from the place ``at`` on."""
    return torch.cat([tensor[:at], some, tensor[at:]])
