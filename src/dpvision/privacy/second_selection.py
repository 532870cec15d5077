"""Bound the ε of selections a second time, by none of the code of `dpvision.privacy.events.selection`.

With t = λ − 1 and L the privacy loss, the theorem (see there) bounds log E[e^{tL}] of a selection by the
largest of its trials', plus t·µ·δ̂ and log E[K]. Here the moments and δ̂ are those of
`dpvision.privacy.second_accountant`, the best t is searched among all real numbers, and µ is found by
Newton's method. Other releases beside a selection add their own moments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from dpvision.privacy.second_accountant import GaussianSums, delta_at, least_epsilon, log_moment


class Selections(Protocol):
    """``count`` selections among ``trials``, with ``mean`` of them expected in each: see `SelectionEvent`."""

    @property
    def trials(self) -> Sequence[Sequence[GaussianSums]]: ...
    @property
    def mean(self) -> float: ...
    @property
    def count(self) -> int: ...


def renyi_with_selections(
    selections: Iterable[Selections], sums: Iterable[GaussianSums], delta: float, relation: str
) -> float:
    """Compute an upper bound on the ε of all together. A δ̂ that is not known is taken to be 1, so that it may
    be a loose one.
    """
    selections, sums = tuple(selections), tuple(sums)

    def moment(t: float) -> float:
        total = log_moment(sums, relation, t)
        for one in selections:
            rate = _rate(one.mean)
            found = [delta_at(trial, math.log1p(1 / t), relation) for trial in one.trials]
            worst = max(1.0 if delta_hat is None else delta_hat for delta_hat in found)
            of_trial = max(log_moment(trial, relation, t) for trial in one.trials)
            total += one.count * (of_trial + t * rate * worst + math.log(rate / -math.expm1(-rate)))
        return total

    return least_epsilon(moment, delta)


def _rate(mean: float) -> float:
    """Return µ with µ/(1 − e^−µ) = mean."""
    rate = mean
    for _ in range(100):
        rest = -math.expm1(-rate)
        slope = (rest - rate * math.exp(-rate)) / rest**2
        rate = max(rate - (rate / rest - mean) / slope, rate / 2)
    return rate
