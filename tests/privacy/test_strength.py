"""What releases give away in other terms than one ε: against closed forms of Gaussians."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from dpvision.privacy import Budget, epsilon, gaussian_event
from dpvision.privacy.events import SelectionEvent
from dpvision.privacy.events.event import LARGEST_COUNT
from dpvision.privacy.strength import strength

BUDGET = Budget(2.0, 1e-5)


def hits(mu: float, rate: float) -> float:
    return float(norm.cdf(norm.ppf(rate) + mu))


def test_an_attacker_of_one_and_of_ten_gaussians() -> None:
    """Φ(Φ⁻¹(x) + μ); ten times the releases have √10 times the μ."""
    found = strength([gaussian_event(4.0, count=2)], BUDGET)
    mu = 2**0.5 / 4
    rates = found["false_positive_rates"]
    for count, scale in (("1", 1.0), ("10", 10**0.5)):
        for rate, most in zip(rates, found["true_positive_rates"][count], strict=True):
            if 1e-3 <= rate < 1:
                assert hits(scale * mu, rate) <= most <= 1.03 * hits(scale * mu, rate)
        assert found["true_positive_rates"][count][-1] == 1
    assert found["at"] in rates
    assert mu <= found["mu"] <= 1.01 * mu
    assert found["regret"] < 5e-3


def test_epsilon_in_other_terms() -> None:
    events = [gaussian_event(1.5, 0.1, 30), gaussian_event(9.0)]
    found = strength(events, BUDGET)
    for relation in ("add_or_remove_one", "replace_one"):
        assert found["epsilon_by_relation"][relation] == epsilon(events, 1e-5, relation)
    assert found["epsilon_by_delta"] == [[delta, epsilon(events, delta)] for delta in (1e-4, 1e-5, 1e-6)]
    assert found["alone"] == [epsilon([event], 1e-5) for event in events]
    assert found["epsilon_unsampled"] == epsilon([gaussian_event(1.5, count=30), gaussian_event(9.0)], 1e-5)
    assert found["epsilon_unsampled"] > 3 * epsilon(events, 1e-5)
    assert found["certainty"] == pytest.approx(found["odds"] / (1 + found["odds"]))
    assert found["odds"] > math.exp(epsilon(events, 1e-5))


def test_events_keep_their_places_though_some_are_alike() -> None:
    events = [gaussian_event(9.0), gaussian_event(3.0), gaussian_event(9.0)]
    first, second, third = strength(events, BUDGET)["alone"]
    assert first == third < second


def test_the_relation_is_the_budgets() -> None:
    events = [gaussian_event(4.0)]
    one, other = (
        strength(events, Budget(2.0, 1e-5, relation)) for relation in ("add_or_remove_one", "replace_one")
    )
    assert other["mu"] == pytest.approx(2 * one["mu"], rel=1e-3)
    assert other["epsilon_by_relation"] == one["epsilon_by_relation"]


def test_a_selection_without_samples_is_one_of_trials_without() -> None:
    step = gaussian_event(3.0, 0.05, 20)
    found = strength([SelectionEvent.of([[step]], mean=3.0)], BUDGET)
    plain = SelectionEvent.of([[step.unsampled()]], mean=3.0)
    assert found["epsilon_unsampled"] == epsilon([plain], 1e-5)


def test_what_cannot_be_told_is_not_told() -> None:
    """δ that are too small or too large are left out; so many steps cannot be counted ten times."""
    found = strength([gaussian_event(1e5, count=LARGEST_COUNT // 2)], Budget(2.0, 1e-9))
    assert found["true_positive_rates"]["10"] is None
    assert [delta for delta, _ in found["epsilon_by_delta"]] == [1e-8, 1e-9]
    lost = strength([gaussian_event(0.001)], BUDGET)
    assert lost["mu"] is None
    assert lost["regret"] is None
    assert lost["odds"] is None
    assert lost["certainty"] is None
