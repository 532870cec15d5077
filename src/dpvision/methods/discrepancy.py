"""When a generator is as near to what was released as the truth is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

AVERAGED = 10
"""How many batches of a half an average is of."""

LOOK_EVERY = 10
"""Steps between two looks at the distance, each of which waits for the device."""

TOLERANCE = 3.0
"""How many standard deviations above its expectation the truth's own distance may be."""


class Discrepancy:
    """Follows the squared distance of a generator's mean embedding from the released one, and tells when
    noise alone puts the truth as far from it (Morozov's discrepancy principle). What would bring the
    generator nearer from there is noise.

    A batch's own distance is too large, by its difference from the generator's mean. So the batches of even
    and of odd steps are averaged apart, and the scalar product of their differences from the released means
    is the distance: in expectation, the batches have no share in it.

    Args:
        removed: what the generator's targets lack of the released means, ``[K, D]``.
        noise: the standard deviation of the noise in the released means of each class, ``[K]``.
        weights: how much each class counts, ``[K]``.

    Attributes:
        averages: the two averages, ``[2, K, D]``: all that changes from step to step.
    """

    def __init__(self, removed: Tensor, noise: Tensor, weights: Tensor) -> None:
        self.removed, self.weights = removed, weights
        of_classes = weights * removed.shape[1] * noise.square()  # expected of the truth
        self.largest = float(of_classes.sum())
        self.largest += TOLERANCE * math.sqrt(2 / removed.shape[1]) * float(of_classes.norm())
        self.averages = torch.zeros(2, *removed.shape, device=removed.device)

    def update(self, step: int, differences: Tensor) -> None:
        """Take in the targets less the means of a step's batch, ``[K, D]``; the first step is 0."""
        share = max(1 / (step // 2 + 1), 1 / AVERAGED)  # the plain mean at first
        self.averages[step % 2].lerp_(differences.detach(), share)

    def is_noise(self, steps_done: int) -> bool:
        """Return whether the distance may be the truth's. It is looked at every :data:`LOOK_EVERY` steps,
        from twice :data:`AVERAGED` on.
        """
        if steps_done < 2 * AVERAGED or steps_done % LOOK_EVERY:
            return False
        even, odd = self.averages + self.removed
        return float(((even * odd).sum(dim=1) * self.weights).sum()) <= self.largest
