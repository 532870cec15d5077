"""What holds for a person with several images: against closed forms, and against what holds of anything."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from dpvision.privacy import Event, NeighboringRelation, epsilon, gaussian_event
from dpvision.privacy.events import SelectionEvent
from dpvision.privacy.group_privacy import LARGEST, SIZES, group_epsilons

DELTA = 1e-5
SUMS = [
    [gaussian_event(4.0, 0.1, 100)],
    [gaussian_event(1.0, 0.01, 300), gaussian_event(10.0, 0.01, 20), gaussian_event(30.0)],
    [gaussian_event(20.0, 1.0, 3)],
    [gaussian_event(60.0, 0.5, 3)],
]
TUNED = [SelectionEvent.of([[gaussian_event(30.0, 0.2, 20)], [gaussian_event(40.0)]], 3.0)]
RELATIONS: list[NeighboringRelation] = ["add_or_remove_one", "replace_one"]


def exact_delta(eps: float, mu: float) -> float:
    """Return δ of N(µ, 1) against N(0, 1) (Balle and Wang, arXiv 1805.06530, Theorem 5)."""
    return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("relation", "ratio"), [("add_or_remove_one", 1.0), ("replace_one", math.sqrt(2))])
def test_of_all_examples_it_is_a_gaussian_with_less_noise(
    size: int, relation: NeighboringRelation, ratio: float
) -> None:
    events = [
        gaussian_event(20.0, count=4, replace_one_ratio=math.sqrt(2)),
        gaussian_event(25.0, replace_one_ratio=math.sqrt(2)),
    ]
    mu = size * ratio * math.sqrt(4 / 20.0**2 + 1 / 25.0**2)
    exact = brentq(lambda eps: exact_delta(eps, mu) - DELTA, 1e-6, 200)
    found = group_epsilons(events, DELTA, relation, [size])[size]
    assert exact <= found <= 1.001 * exact + 1e-4


def test_at_one_release_over_a_sample_it_is_that_of_the_mixture() -> None:
    """By integration of the hockey-stick divergence in both directions, from the definition."""
    sigma, q, size = 1.5, 0.2, 3
    x = np.arange(-40, 40, 1e-4)
    weights = [math.comb(size, j) * q**j * (1 - q) ** (size - j) for j in range(size + 1)]
    with_them = sum(w * norm.pdf(x, j, sigma) for j, w in enumerate(weights))
    without = norm.pdf(x, 0, sigma)

    def delta(eps: float) -> float:
        there = np.maximum(with_them - math.exp(eps) * without, 0).sum() * 1e-4
        back = np.maximum(without - math.exp(eps) * with_them, 0).sum() * 1e-4
        return float(max(there, back))

    exact = brentq(lambda eps: delta(eps) - DELTA, 1e-3, 50)
    found = group_epsilons([gaussian_event(sigma, q)], DELTA, sizes=[size])[size]
    assert 0.9999 * exact <= found <= 1.02 * exact


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("events", [*SUMS, TUNED])
def test_of_one_image_it_is_the_accounts_and_of_more_it_is_more(
    events: list[Event], relation: NeighboringRelation
) -> None:
    found = group_epsilons(events, DELTA, relation, (1, 2, 3, 5, 10))
    assert found[1] == epsilon(events, DELTA, relation)
    bounds = [found[size] for size in (1, 2, 3, 5, 10)]
    assert bounds == sorted(bounds)
    assert 2 * found[1] <= found[2] < 4 * found[1]


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("events", [*SUMS, TUNED])
def test_it_is_not_above_what_holds_of_anything(events: list[Event], relation: NeighboringRelation) -> None:
    for size, found in group_epsilons(events, DELTA, relation).items():
        for of_one in (1e-7, 1e-8, 1e-9, 1e-12, 1e-20):
            of_chain = epsilon(events, of_one, relation, "pld" if of_one >= 1e-9 else "rdp")
            if size * of_chain > LARGEST:
                continue
            if of_one * math.expm1(size * of_chain) / math.expm1(of_chain) <= DELTA:
                assert found <= 1.005 * size * of_chain


def test_what_says_nothing_is_infinite() -> None:
    found = group_epsilons([gaussian_event(1.0, 0.5, 100)], DELTA)
    assert found[10] == math.inf
    assert group_epsilons([gaussian_event(2e-3)], DELTA) == dict.fromkeys(SIZES, math.inf)
    assert group_epsilons([], DELTA) == dict.fromkeys(SIZES, 0.0)


def test_replaced_in_samples_it_is_near_the_integral() -> None:
    """Three images of one release, by the hockey-stick divergence of opposite mixtures."""
    sigma, q, size = 3.0, 0.2, 3
    x = np.arange(-60, 60, 1e-4)
    weights = [math.comb(size, j) * q**j * (1 - q) ** (size - j) for j in range(size + 1)]
    one, other = (sum(w * norm.pdf(x, s * j, sigma) for j, w in enumerate(weights)) for s in (1, -1))
    exact = brentq(lambda eps: np.maximum(one - math.exp(eps) * other, 0).sum() * 1e-4 - DELTA, 1e-3, 50)
    found = group_epsilons([gaussian_event(sigma, q)], DELTA, "replace_one", [size])[size]
    assert exact <= found <= 1.6 * exact


def test_releases_with_the_same_noise_that_differ_otherwise_are_composed() -> None:
    """By how far a replaced image moves them, and by the sample rate."""
    samples = [gaussian_event(3.0, rate, 3) for rate in (0.25, 0.1)]

    def found(noise: float) -> dict[int, float]:
        both = [gaussian_event(3.0), gaussian_event(noise, replace_one_ratio=math.sqrt(2))]
        return group_epsilons([*both, *samples], 1e-3)

    assert found(3.0) == pytest.approx(found(3.0001), rel=1e-3)
