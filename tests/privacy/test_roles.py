"""What a run costs those that it does not protect: never less than by pairs of distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from dpvision.privacy import Event, InputError, NeighboringRelation, epsilon, gaussian_event
from dpvision.privacy.events import SelectionEvent, written
from dpvision.privacy.group_privacy import group_epsilons
from dpvision.privacy.roles import PROTECTED, Role, of_group

ORDERS = (1.5, 2.0, 4.0, 12.0)
RELATIONS: list[NeighboringRelation] = ["add_or_remove_one", "replace_one"]


def of_mixtures(sigma: float, q: float, size: int, away: int) -> NDArray[np.float64]:
    """Return the Rényi divergences of Σⱼ wⱼ·N(j, σ²) and Σⱼ wⱼ·N(−away·j, σ²), in the worse order."""
    x = np.linspace(-60 * sigma - 40 * size, 60 * sigma + 40 * size, 400_001)
    weights = [math.comb(size, j) * q**j * (1 - q) ** (size - j) for j in range(size + 1)]

    def log(sign: int) -> NDArray[np.float64]:
        parts = [np.log(w) + norm.logpdf(x, sign * j, sigma) for j, w in enumerate(weights) if w]
        return np.asarray(logsumexp(parts, axis=0))

    here, there = log(1), log(-away)
    step = np.log(x[1] - x[0])
    return np.array(
        [
            max(logsumexp(a * p + (1 - a) * r) + step for p, r in ((here, there), (there, here))) / (a - 1)
            for a in ORDERS
        ]
    )


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize(("sigma", "q"), [(3.0, 0.1), (4.0, 0.7), (6.0, 1.0)])
def test_a_group_costs_no_more(sigma: float, q: float, size: int) -> None:
    role = Role(size)
    (one,) = role.cost([gaussian_event(sigma, q)])
    for away, relation in enumerate(RELATIONS):
        exact, found = of_mixtures(sigma, q, size, away), one.renyi_divergences(ORDERS, relation)
        assert (found >= exact * (1 - 1e-7)).all()
        assert found == pytest.approx(exact, rel=1e-6)
        (larger,) = [of_group(gaussian_event(sigma, q), size)]
        assert (larger.renyi_divergences(ORDERS, relation) >= exact * (1 - 1e-7)).all()
    (three,) = role.cost([gaussian_event(sigma, q, 3)])
    assert three.renyi_divergences(ORDERS, "replace_one") == pytest.approx(3 * found)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_group_costs_at_least_what_is_known_to_be_its_least(relation: NeighboringRelation) -> None:
    events = [gaussian_event(20.0, 0.2, 30), gaussian_event(60.0, 1.0, 2)]
    assert group_epsilons(events, 1e-5)[5] <= epsilon(Role(5).cost(events), 1e-5)
    tuned = [SelectionEvent.of([events], 3.0)]
    assert epsilon(tuned, 1e-5, relation) < epsilon(Role(2).cost(tuned), 1e-5, relation)


def test_what_may_change_costs_what_replacing_costs_whichever_the_relation() -> None:
    for ratio in (0.5, 1.0, 2.0):
        event = gaussian_event(5.0, replace_one_ratio=ratio)
        larger = np.maximum(*(event.renyi_divergences(ORDERS, relation) for relation in RELATIONS))
        for relation in RELATIONS:
            (one,) = Role(mixed=True).cost([event])
            assert (one.renyi_divergences(ORDERS, relation) >= larger * (1 - 1e-9)).all()
    sampled = gaussian_event(2.0, 0.1)
    (one,) = Role(mixed=True).cost([sampled])
    exact = sampled.renyi_divergences(ORDERS, "replace_one")
    assert one.renyi_divergences(ORDERS, "add_or_remove_one") == pytest.approx(exact)


def test_what_is_protected_costs_what_it_costs() -> None:
    events = (gaussian_event(2.0, 0.1, 7), gaussian_event(3.0))
    assert PROTECTED.cost(events) == events


def test_what_is_not_known_is_infinite() -> None:
    class Other(type(gaussian_event(2.0))):  # type: ignore[misc]
        pass

    unknown: Event = Other(2.0)
    for events in ([unknown], [gaussian_event(0.01)]):
        assert epsilon(Role(20).cost(events), 1e-5) == math.inf
    with pytest.raises(InputError, match="not known"):
        of_group(unknown, 2)


def test_no_ledger_takes_it() -> None:
    (one,) = Role(2).cost([gaussian_event(2.0)])
    with pytest.raises(InputError, match="not known to this program"):
        written(one)
