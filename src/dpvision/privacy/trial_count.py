"""The random number of trials of a selection: Poisson's law without its zero. It imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from dpvision.privacy.errors import InputError

if TYPE_CHECKING:
    from dpvision.privacy.noise import RandomSource

_LARGEST_MEAN = 1000.0


@dataclass(frozen=True)
class TrialCount:
    """A number K ≥ 1 with P[K = k] in proportion to µ^k/k!.

    >>> law = TrialCount(8.0)
    >>> round(law.rate, 4), round(law.probability(1), 4)
    (7.9973, 0.0027)

    Attributes:
        mean: E[K], which is µ/(1 − e^−µ).

    Raises:
        InputError: the mean is not above 1, or above 1000.
    """

    IN_WORDS: ClassVar[str] = "Poisson's law without its zero"

    mean: float

    def __post_init__(self) -> None:
        if not 1 < self.mean <= _LARGEST_MEAN:
            raise InputError(
                f"the expected number of trials must be above 1 and at most {_LARGEST_MEAN:g}, "
                f"not {self.mean:g}"
            )

    @cached_property
    def rate(self) -> float:
        """The µ of this mean, by bisection."""
        low, high = 0.0, self.mean
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if _mean(middle) < self.mean else (low, middle)
        return high

    @property
    def log_mean(self) -> float:
        """The logarithm of E[K], of the very rate by which K is drawn."""
        return math.log(_mean(self.rate))

    def probability(self, count: int) -> float:
        """Return P[K = count]."""
        log = count * math.log(self.rate) - self.rate - math.lgamma(count + 1)
        return math.exp(log) / -math.expm1(-self.rate) if count > 0 else 0.0

    def draw(self, random: RandomSource) -> int:
        """Draw K, by a uniform number of 53 bits."""
        left, count = float(random.uniform((1,))), 1
        while left >= (probability := self.probability(count)) and (count < self.rate or probability > 0):
            left, count = left - probability, count + 1
        return count


def _mean(rate: float) -> float:
    return rate / -math.expm1(-rate) if rate > 0 else 1.0
