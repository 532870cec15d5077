"""What a guarantee means to an attacker, and how it reads in other terms than one ε."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from dpvision.privacy.accounting import SMALLEST_PLD_DELTA, epsilon
from dpvision.privacy.budget import Budget, NeighboringRelation
from dpvision.privacy.events import Event
from dpvision.privacy.events.event import LARGEST_COUNT
from dpvision.privacy.trade_off import TradeOff

FALSE_POSITIVE_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Shares of those who are not in the data that an attacker takes for members: what a card plots."""

AT = 0.01
"""The rate that a card names."""

RELEASES = (1, 10)
"""How many such releases an attacker may hold."""

_LEAST_DELTA, _POINTS = 1e-10, 2000
"""How far, and how finely, the curves are known."""

_DELTAS = (10.0, 1.0, 0.1)
"""The δ that ε is stated at, in units of the budget's."""


def strength(events: Iterable[Event], budget: Budget) -> dict[str, Any]:
    """Return what releases give away, as JSON types; every number is a bound, None where there is none.

    Args:
        events: what was released.
        budget: whose δ and relation count.

    Returns:
        epsilon_by_relation: ε at δ for each relation.
        epsilon_by_delta: ε at the relation for each of a few δ, a list of pairs.
        epsilon_unsampled: ε against whoever knew who was in each sample: without amplification.
        mu, regret: see :meth:`TradeOff.gaussian`.
        at: :data:`AT`.
        false_positive_rates: :data:`FALSE_POSITIVE_RATES`.
        true_positive_rates: of a test for membership at each of these, with 1 and with 10 such releases.
        odds: by how much the odds change at most, except with probability δ: see :meth:`TradeOff.odds`.
        certainty: how sure an attacker is then at most, who held it to be as likely as not.
        alone: ε of each event by itself, in order.
    """
    return _strength(tuple(events), budget.delta, budget.neighboring_relation)


@lru_cache(maxsize=64)
def _strength(events: tuple[Event, ...], delta: float, relation: NeighboringRelation) -> dict[str, Any]:
    def at(some: Sequence[Event], delta: float = delta, relation: NeighboringRelation = relation) -> Any:
        return _finite(epsilon(some, delta, relation))

    relations: tuple[NeighboringRelation, ...] = ("add_or_remove_one", "replace_one")
    deltas = [float(f"{scale * delta:.3g}") for scale in _DELTAS]
    deltas = [some for some in deltas if SMALLEST_PLD_DELTA <= some < 0.5]
    curves = {count: _curve(events, count, relation) for count in RELEASES}
    once = curves[1]
    mu, regret = once.gaussian(delta) if once else (math.inf, math.inf)
    odds = _finite(once.odds(delta)) if once else None
    return {
        "epsilon_by_relation": {name: at(events, relation=name) for name in relations},
        "epsilon_by_delta": [[some, at(events, delta=some)] for some in deltas],
        "epsilon_unsampled": at([event.unsampled() for event in events]),
        "mu": _finite(mu),
        "regret": _finite(regret),
        "at": AT,
        "false_positive_rates": list(FALSE_POSITIVE_RATES),
        "true_positive_rates": {
            str(count): [curve.most(rate) for rate in FALSE_POSITIVE_RATES] if curve else None
            for count, curve in curves.items()
        },
        "odds": odds,
        "certainty": None if odds is None else odds / (1 + odds),
        "alone": [at([event]) for event in events],
    }


def _curve(events: tuple[Event, ...], releases: int, relation: NeighboringRelation) -> TradeOff | None:
    """Return the curve of so many such releases; None where they are too many to count."""
    if any(event.count * releases > LARGEST_COUNT for event in events):
        return None
    many = [event.times(event.count * releases) for event in events]
    return TradeOff.of(many, relation, _LEAST_DELTA, _POINTS)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
