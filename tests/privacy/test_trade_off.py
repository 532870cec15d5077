"""How well anyone can tell whether an example was in the data, by the releases' own distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from dpvision.privacy import epsilon, gaussian_event
from dpvision.privacy.events import SelectionEvent
from dpvision.privacy.trade_off import NO_DIFFERENCE, TradeOff

RELATION = "add_or_remove_one"


def test_a_curve_lies_where_the_mechanism_is() -> None:
    """Φ(Φ⁻¹(y) − μ), for the Gaussian mechanism."""
    curve = TradeOff.of([gaussian_event(0.8)], RELATION)
    for probability in (1e-4, 0.01, 0.3, 0.9):
        exact = norm.cdf(norm.ppf(probability) - 1 / 0.8)
        assert curve.least(probability) <= exact
        assert curve.least(probability) == pytest.approx(exact, rel=0.01)
    assert [NO_DIFFERENCE.least(p) for p in (0.0, 0.25, 1.0)] == [0, 0.25, 1]


@pytest.mark.parametrize("sigma", [0.4, 0.8, 5.0])
@pytest.mark.parametrize("rate", [1e-4, 0.01, 0.3, 0.9])
def test_the_largest_rate_of_hits_is_that_of_the_best_test(sigma: float, rate: float) -> None:
    """Φ(Φ⁻¹(x) + μ): the test of Neyman and Pearson on a Gaussian."""
    curve = TradeOff.of([gaussian_event(sigma)], RELATION)
    exact = norm.cdf(norm.ppf(rate) + 1 / sigma)
    assert exact <= curve.most(rate) == pytest.approx(exact, rel=0.03)
    assert curve.least(curve.most(rate)) <= rate + 1e-12
    assert NO_DIFFERENCE.most(rate) == pytest.approx(rate)


def test_no_test_on_a_sample_does_better() -> None:
    """One sum over a Poisson sample: whoever knows the likelihood ratio of N(0, σ²) against the mixture."""
    sigma, q = 0.7, 0.2
    curve = TradeOff.of([gaussian_event(sigma, q)], RELATION)
    z = np.linspace(-8, 8, 20_001)
    hits = q * norm.sf((z - 1) / sigma) + (1 - q) * norm.sf(z / sigma)
    for rate in (1e-4, 0.01, 0.3):
        exact = np.interp(-rate, -norm.sf(z / sigma), hits)
        assert exact <= curve.most(rate) <= 1.02 * exact


def test_a_gaussian_is_told_by_its_mu() -> None:
    mu, regret = TradeOff.of([gaussian_event(2.0, count=9)], RELATION).gaussian(1e-6)
    assert 1.5 <= mu <= 1.53
    assert regret < 0.02


@pytest.mark.parametrize("mu", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("probability", [1e-6, 1e-5, 1e-3])
def test_the_odds_change_by_no_more_but_for_a_probability(mu: float, probability: float) -> None:
    """The loss of a Gaussian is N(μ²/2, μ²): the bound is above its quantile, by a little."""
    bound = math.log(TradeOff.of([gaussian_event(1 / mu)], RELATION).odds(probability))
    quantile = mu**2 / 2 + mu * norm.isf(probability)
    assert quantile <= bound <= quantile + 0.4 * mu


def test_epsilon_is_exceeded_more_often_than_delta() -> None:
    """What a card must not say: that odds change by e^ε at most, but for a probability of δ."""
    mu = 0.5
    event = gaussian_event(1 / mu)
    exceeded = norm.sf((epsilon([event], 1e-5) - mu**2 / 2) / mu)
    assert exceeded > 5e-5
    assert TradeOff.of([event], RELATION).odds(1e-5) > math.exp(epsilon([event], 1e-5))


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(0.7, 0.01, 500), (0.6, 0.001, 3000)])
def test_mu_says_no_less_between_the_points_too(sigma: float, rate: float, steps: int) -> None:
    events = [gaussian_event(sigma, rate, steps)]
    mu, _ = TradeOff.of(events, RELATION).gaussian(1e-5)
    for delta in (1e-5, 1.1e-5, 1e-4):
        at = epsilon(events, delta)
        assert norm.cdf(mu / 2 - at / mu) - math.exp(at) * norm.cdf(-mu / 2 - at / mu) >= delta


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(1.0, 0.02, 500), (0.6, 0.001, 100)])
def test_mu_says_no_less_than_the_releases(sigma: float, rate: float, steps: int) -> None:
    """Neither the profile nor the best rate of hits is above that of a Gaussian of this μ; the regret is what
    the mean risk of a test can differ by, over prior odds.
    """
    curve = TradeOff.of([gaussian_event(sigma, rate, steps)], RELATION)
    mu, regret = curve.gaussian(1e-5)
    gaussian = TradeOff.of([gaussian_event(1 / mu)], RELATION)
    for false in (1e-3, 0.01, 0.1, 0.5):
        assert curve.most(false) <= gaussian.most(false) + 1e-5
    risks = []
    for prior in np.linspace(0.02, 0.98, 49):
        grid = np.linspace(0, 1, 2001)
        by_curve, by_mu = (
            min(prior * x + (1 - prior) * (1 - one.most(x)) for x in grid[::20]) for one in (curve, gaussian)
        )
        risks.append(by_curve - by_mu)
    assert max(risks) <= regret + 2e-3


def test_a_selection_has_a_curve_though_a_loose_one() -> None:
    step = gaussian_event(1.0, 0.01, 200)
    one, chosen = (
        TradeOff.of(events, RELATION) for events in ([step], [SelectionEvent.of([[step]], mean=5.0)])
    )
    assert one.most(0.01) < chosen.most(0.01) < 1


def test_without_a_small_enough_delta_there_is_no_mu() -> None:
    curve = TradeOff.of([gaussian_event(0.001)], RELATION)
    assert curve.gaussian(1e-5) == (math.inf, math.inf)
    assert curve.most(0.01) == 1
