"""Examples to train on, wherever they lie, and batches of them, of which only some are held at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dpvision.images.images import rows


class Examples(Protocol):
    """What a trainer learns from: a :class:`dpvision.images.ImageSet`, or :class:`Rows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Tensor:
        """Return the examples at indices, int64 ``[n]``, in this order: ``[n, *shape]``."""


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

    def blocks(self, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield examples ``[n, …]``, labels and ids ``[n]``, with n = size or fewer in the last block. An
        empty batch is one empty block.
        """
        parts = (tensor.split(size) for tensor in (self.indices, self.labels, self.ids))
        for indices, labels, ids in zip(*parts, strict=True):
            yield self.examples.take(indices), labels, ids

    def with_one(self, example: Tensor, label: int, own_id: int, at: int) -> Batch:
        """Return this batch with one more example ``[…]`` at the place ``at``, from 0."""
        examples = self.examples.take(self.indices)
        return Batch(
            Rows(inserted(examples, example.to(examples), at)),
            torch.arange(len(self) + 1),
            inserted(self.labels, self.labels.new_tensor(label), at),
            inserted(self.ids, self.ids.new_tensor(own_id), at),
        )


def inserted(tensor: Tensor, row: Tensor, at: int) -> Tensor:
    """Return a tensor ``[N, …]`` with one more row ``[…]`` at the place ``at``."""
    return torch.cat([tensor[:at], row[None], tensor[at:]])
