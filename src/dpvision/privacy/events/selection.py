"""The best of a random number of trials: what it costs to choose settings by private images.

**The selection.** K ≥ 1 trials, where P[K = k] is in proportion to µ^k/k! (Poisson's law without its zero).
Each trial draws one of the candidates, whatever the data, and does with fresh randomness what that releases,
a score among it. The trial with the best score is released; nothing else is, not even K.

**The bound.** Let Q and Q′ be the laws of a trial on neighbours, A and A′ those of the selection. For every
λ > 1, with ε̂ = log(λ/(λ−1)), let every candidate's Rényi divergence of order λ be at most D, and every
candidate be (ε̂, δ̂)-private. Then

    D_λ(A‖A′) ≤ D + µ·δ̂ + log E[K]/(λ−1).

Of Poisson's own law this is Theorem 6 of Papernot and Steinke (arXiv 2110.03620). Without the zero it holds
too, with E[K] = µ/(1−e^−µ):

*Proof.* The candidate that was drawn is part of what a trial releases, so the sum of Q^λ·Q′^(1−λ) is the mean
of the candidates' and at most the largest, and likewise the hockey-stick divergence. Outputs are ordered by
score, those of one score by a coin of their own (which of them is taken changes nothing of A, as trials are
alike). With f(x) = E[x^K] = (e^{µx}−1)/(e^µ−1) and F(y), F(y−) the probabilities under Q of outputs up to y
and below y,

    A(y) = f(F(y)) − f(F(y−)) = Q(y)·∫₀¹ f′(q_t) dt,   q_t = F(y−) + t·Q(y),

and the same of A′ with q′_t. (a, b) ↦ a^λ·b^(1−λ) is jointly convex and homogeneous, so

    A(y)^λ·A′(y)^(1−λ) ≤ Q(y)^λ·Q′(y)^(1−λ) · ∫₀¹ f′(q_t)^λ·f′(q′_t)^(1−λ) dt.

Now f′(x) = E[K]·e^{µ(x−1)}, hence

    f′(q)^λ·f′(q′)^(1−λ) = E[K]·exp(µ·(λ−1)·[(1−q′) − λ/(λ−1)·(1−q)]).

1−q_t and 1−q′_t are the probabilities of one event, "above y, or y and a coin falls so", under Q and Q′, so
the bracket is at most δ̂. Sum over y, take the logarithm and divide by λ−1. ∎

δ̂ is computed by privacy loss distributions. There is no pair of distributions whose composition would be the
selection's, so that an account with a selection in it is composed by Rényi divergences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import dp_accounting
import numpy as np

from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.errors import InputError
from dpvision.privacy.events.event import Event, merge_events, register
from dpvision.privacy.trial_count import TrialCount

_MOST_TRIALS, _MOST_EVENTS = 32, 32

Trial = tuple[Event, ...]


@dataclass(frozen=True)
class SelectionEvent(Event):
    """``count`` selections of the best of a random number of trials.

    Guarantee: the Rényi divergence is that of the module's bound, if each trial releases what one of
    ``trials`` says and no more, with randomness of its own, and if which one, and how many trials there are,
    does not depend on the data. ``tests/privacy/test_selection.py`` compares it with selections whose
    divergence can be computed.

    Attributes:
        trials: what one trial releases: an alternative for each kind of candidate, merged and in order.
        mean: E[K], the expected number of trials.

    Raises:
        InputError: there is no trial, or one that releases nothing or is itself a selection, or too many.
    """

    kind: ClassVar[str] = "selection"
    noise: ClassVar[str] = "the best of a random number of trials"
    has_pair: ClassVar[bool] = False

    trials: tuple[Trial, ...]
    mean: float

    def __post_init__(self) -> None:
        super().__post_init__()
        TrialCount(self.mean)  # refuses what is none
        if not 1 <= len(self.trials) <= _MOST_TRIALS:
            raise InputError(f"a selection has 1 to {_MOST_TRIALS} kinds of trials, not {len(self.trials)}.")
        for trial in self.trials:
            if not 1 <= len(trial) <= _MOST_EVENTS or any(isinstance(one, SelectionEvent) for one in trial):
                raise InputError(
                    f"a trial has 1 to {_MOST_EVENTS} kinds of events, none of them a selection."
                )

    @classmethod
    def of(cls, trials: Iterable[Iterable[Event]], mean: float) -> Self:
        """Return the event of one selection among candidates that release these events."""
        distinct = {merge_events(trial) for trial in trials}
        return cls(tuple(sorted(distinct, key=repr)), mean)

    def scaled(self, scale: float) -> Self:
        """Return the same selections with ``scale`` times the noise in every trial."""
        return replace(self, trials=tuple(tuple(one.scaled(scale) for one in trial) for trial in self.trials))

    def unsampled(self) -> SelectionEvent:
        """Return the same selections of trials without samples."""
        return self.of([[one.unsampled() for one in trial] for trial in self.trials], self.mean).times(
            self.count
        )

    def to_dp_event(self, neighboring_relation: NeighboringRelation) -> dp_accounting.DpEvent:
        """Raise InputError: there is no pair of distributions whose composition is this."""
        raise InputError("a selection is composed by Rényi divergences alone.")

    def renyi_divergences(
        self, orders: Sequence[float], neighboring_relation: NeighboringRelation
    ) -> np.ndarray:
        """Compute the bound of the module for each order."""
        return self.count * _bound(self.single, tuple(orders), neighboring_relation)

    @property
    def largest_loss(self) -> float:
        """The largest of the trials' losses."""
        return max(one.largest_loss for trial in self.trials for one in trial)

    def to_json(self) -> dict[str, Any]:
        """Return the kind and the fields; events as they are written by themselves."""
        trials = [[one.to_json() for one in trial] for trial in self.trials]
        return {"kind": self.kind, "trials": trials, "mean": self.mean, "count": self.count}

    def facts(self) -> dict[str, Any]:
        """Return the expected number of trials, the law, and what a trial releases, in words."""
        each = [" and ".join(f"{one.count} × {one}" for one in trial) for trial in self.trials]
        return {
            "expected trials": self.mean,
            "law": TrialCount.IN_WORDS,
            "a trial": "; or ".join(each),
            "count": self.count,
        }


@lru_cache(maxsize=256)
def _bound(
    event: SelectionEvent, orders: tuple[float, ...], neighboring_relation: NeighboringRelation
) -> np.ndarray:
    """Compute the Rényi divergences of one selection."""
    law, order = TrialCount(event.mean), np.array(orders)
    largest = np.max(
        [
            np.sum([one.renyi_divergences(orders, neighboring_relation) for one in trial], axis=0)
            for trial in event.trials
        ],
        axis=0,
    )
    delta = np.max([_deltas(trial, orders, neighboring_relation) for trial in event.trials], axis=0)
    return (largest + law.rate * delta + law.log_mean / (order - 1)) * (1 + 1e-12)


@lru_cache(maxsize=1024)
def _deltas(trial: Trial, orders: tuple[float, ...], neighboring_relation: NeighboringRelation) -> np.ndarray:
    """Compute δ̂ of a trial for each order, at ε̂ = log(λ/(λ−1))."""
    from dpvision.privacy.accounting import privacy_profile  # here: it takes events of every kind

    epsilons = np.log1p(1 / (np.array(orders) - 1))
    ascending = np.argsort(epsilons)
    found = np.empty(len(orders))
    found[ascending] = privacy_profile(trial, epsilons[ascending], neighboring_relation)
    return found


def _read(trials: Sequence[Sequence[Mapping[str, Any]]], mean: float, count: int) -> SelectionEvent:
    """Read what `SelectionEvent.to_json` wrote."""
    read = tuple(tuple(Event.from_json(dict(one)) for one in trial) for trial in trials)
    return SelectionEvent(read, mean, count=count)


register(SelectionEvent.kind, _read)
