"""How well anyone can tell by its releases whether an example was in the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from dpvision.privacy.accounting import LARGEST_PLD_EPSILON, epsilon, privacy_profile, renyi_profile
from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.events import Event

Array = NDArray[np.float64]

_LARGEST_EPSILON = 100.0  # of a curve; far beyond what anyone can tell apart


@dataclass(frozen=True)
class TradeOff:
    """A bound on how well runs with and without one example can be told apart.

    Attributes:
        epsilons, deltas: ``[E]``, the run is (ε, δ)-private, in both directions, for each of these pairs. The
            trade-off curve is the envelope of what they say, so that leaving some out only makes it weaker.
    """

    epsilons: Array
    deltas: Array

    @classmethod
    def of(
        cls, events: Sequence[Event], relation: NeighboringRelation, delta: float = 1e-8, points: int = 400
    ) -> TradeOff:
        """Return the trade-off curve of releases, at so many ε up to that of δ.

        It is by their privacy loss distribution; by Rényi divergences where one of them has none, or ε is
        so large that it cannot be resolved.
        """
        most = epsilon(events, delta, relation, "rdp")
        epsilons = np.linspace(0, min(most, _LARGEST_EPSILON), points)
        resolved = most <= LARGEST_PLD_EPSILON and all(event.has_pair for event in events)
        profile = privacy_profile if resolved else renyi_profile
        return cls(epsilons, profile(events, epsilons, relation))

    @cached_property
    def _ratios(self) -> Array:
        return np.exp(self.epsilons)

    def least(self, probability: float) -> float:
        """Bound from below an event's probability without the example (or with another), given that
        with it.
        """
        by_event = (probability - self.deltas) / self._ratios
        by_complement = 1 - self.deltas - self._ratios * (1 - probability)
        return max(0.0, float(by_event.max()), float(by_complement.max()))

    def most(self, probability: float) -> float:
        """Bound from above an event's probability with the example, given that without it: the true-positive
        rate of any test that tells the two apart with this false-positive rate.
        """
        by_event = self.deltas + self._ratios * probability
        by_complement = 1 - (1 - self.deltas - probability) / self._ratios
        return min(1.0, float(by_event.min()), float(by_complement.min()))

    def odds(self, probability: float) -> float:
        """Bound from above by how much the releases change the odds of the example's being in the data, but
        for this probability; ∞ where no bound was found.

        They change them by e^L, with the privacy loss L of what was released. For ε′ below ε, δ(ε′) is the
        mean of (1 − e^{ε′−L})⁺, so that L is above ε with probability δ(ε′)/(1 − e^{ε′−ε}) at most. That is
        more than δ(ε): "with probability δ" and (ε, δ)-private are not the same.
        """
        for place in range(1, len(self.epsilons)):
            before = slice(0, place)
            exceeded = self.deltas[before] / -np.expm1(self.epsilons[before] - self.epsilons[place])
            if exceeded.min() <= probability:
                return float(self._ratios[place])
        return math.inf

    def gaussian(self, delta: float) -> tuple[float, float]:
        """Return the μ of Gaussian differential privacy (Dong, Roth and Su, arXiv 1905.02383) that gives away
        no less than this curve at any δ from that given upwards, and how much more it gives away at worst.

        The second is the regret of Gomez et al. (arXiv 2503.10945): by how much the least mean risk of a
        test, over all prior odds, is larger by this curve than by μ. Below 0.01, μ tells about all that there
        is to tell. Both are ∞ where no δ on the curve is as small.
        """
        told = self.deltas >= delta
        if told.all():
            return math.inf, math.inf

        def profile(mu: float) -> Array:
            return norm.cdf(mu / 2 - self.epsilons / mu) - self._ratios * norm.cdf(
                -mu / 2 - self.epsilons / mu
            )

        def says_no_less(mu: float) -> bool:
            # From one ε to the next δ falls: it is at most that of the first, and at least that of the next.
            return bool((profile(mu)[1:] >= self.deltas[:-1])[told[:-1]].all())

        low, high = 0.0, 1.0
        while not says_no_less(high):
            high *= 2
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if says_no_less(middle) else (middle, high)
        regrets = (profile(high)[:-1] - self.deltas[1:])[told[:-1]] / (1 + self._ratios[:-1][told[:-1]])
        return high, max(0.0, float(regrets.max(initial=0.0)))


NO_DIFFERENCE = TradeOff(np.zeros(1), np.zeros(1))
"""The curve of ε = 0: the output says nothing about an example."""
