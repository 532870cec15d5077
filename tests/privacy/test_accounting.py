"""Golden values, an independent computation of the same ε, and calibration."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from dpvision.privacy import (
    Budget,
    Event,
    InputError,
    calibrate_noise_multiplier,
    calibrate_steps,
    epsilon,
    gaussian_event,
    merge_events,
)

RELATIONS = ["add_or_remove_one", "replace_one"]

# De et al. (arXiv 2204.13650), CIFAR-10, q = 4096/50000, δ = 1e-5: ε, steps, σ by RDP, σ by PLD.
CIFAR10_RATE = 4096 / 50_000
DE_ET_AL = [
    (1, 875, 9.89, 9.13),
    (2, 1125, 6.00, 5.57),
    (3, 1593, 4.98, 4.64),
    (4, 1687, 4.00, 3.74),
    (6, 1843, 2.98, 2.80),
    (8, 2468, 2.71, 2.56),
]


def test_golden_case():
    """7.3291 is the RDP value in the literature; 6.777 that of the PRV accountant (arXiv 2106.02848)."""
    events = [gaussian_event(1.5, 0.04, 2250)]
    assert epsilon(events, 1e-5, accountant="rdp") == pytest.approx(7.3291, abs=5e-4)
    assert epsilon(events, 1e-5, accountant="pld") == pytest.approx(6.777, rel=0.01)


@pytest.mark.parametrize(("target", "steps", "sigma_rdp", "sigma_pld"), DE_ET_AL)
def test_noise_of_de_et_al(target, steps, sigma_rdp, sigma_pld):
    budget = Budget(target, 1e-5)
    assert calibrate_steps(CIFAR10_RATE, steps, budget, "rdp") == pytest.approx(sigma_rdp, rel=5e-3)
    assert calibrate_steps(CIFAR10_RATE, steps, budget, "pld") == pytest.approx(sigma_pld, rel=5e-3)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("ratio", [2.0, 1.3])
@pytest.mark.parametrize(("sigma", "count"), [(0.8, 1), (5.0, 1), (30.0, 100)])
def test_unsampled_gaussian_is_exact(relation, ratio, sigma, count):
    """Balle and Wang's analytic Gaussian mechanism (arXiv 1805.06530), at the relation's own sensitivity."""
    sensitivity = ratio if relation == "replace_one" else 1.0
    exact = dp_accounting.get_epsilon_gaussian(sigma / sensitivity / count**0.5, 1e-6)
    events = [gaussian_event(sigma, count=count, replace_one_ratio=ratio)]
    assert exact <= epsilon(events, 1e-6, relation) <= exact * 1.002
    assert exact <= epsilon(events, 1e-6, relation, "rdp") <= exact * 1.25


@pytest.mark.parametrize("delta", [1e-5, 1e-9])
@pytest.mark.parametrize(
    ("sigma", "count"),
    [
        *[(100, 1000), (1000, 100_000), (2000, 1_000_000), (300, 1_000_000), (0.7, 1000)],
        pytest.param(10_000, 10_000_000, marks=pytest.mark.slow),
    ],
)
def test_rounding_of_many_compositions_takes_nothing(sigma, count, delta):
    """A sample of nearly all costs what all do, and is composed by FFT; unless the bound of RDP is stated."""
    exact = dp_accounting.get_epsilon_gaussian(sigma / count**0.5, delta)
    claimed = epsilon([gaussian_event(sigma, 1 - 1e-9, count)], delta)
    assert exact * (1 - 1e-7) <= claimed <= 1.25 * exact


@pytest.mark.parametrize("delta", [1e-5, 1e-9])
@pytest.mark.parametrize(
    ("sigma", "count"), [(0.1, 10), (0.3, 100), (1, 1000), (0.7, 1000), (0.15, 80), (0.5, 900)]
)
def test_a_large_epsilon_is_tight(sigma, count, delta):
    exact = exact_gaussian_epsilon(count**0.5 / sigma, delta)
    assert exact > 500
    assert exact <= epsilon([gaussian_event(sigma, 1 - 1e-9, count)], delta) <= 1.004 * exact


def exact_gaussian_epsilon(mu, delta):
    """Of N(0, 1) against N(mu, 1), also where e^ε overflows (Balle and Wang, arXiv 1805.06530)."""

    def log_delta(eps):
        log_ratio = eps + norm.logcdf(-mu / 2 - eps / mu) - norm.logcdf(mu / 2 - eps / mu)
        return norm.logcdf(mu / 2 - eps / mu) + np.log1p(-np.exp(log_ratio))

    return brentq(lambda eps: log_delta(eps) - math.log(delta), 1e-6, mu**2 / 2 + 50 * mu)


@pytest.mark.parametrize("sigma", [0.1, 0.14, 0.3])
def test_a_large_epsilon_of_samples_agrees_with_simulated_losses(sigma):
    """meta-pytorch/opacus#604: of noise so small the bound was eight times as large."""
    q, count, delta, trials = 0.01, 1000, 0.02, 40_000
    random = np.random.default_rng(0)
    losses = np.zeros(trials)
    for _ in range(count):
        x = sigma * random.standard_normal(trials) + (random.random(trials) < q)
        losses += np.log1p(q * np.expm1((2 * x - 1) / (2 * sigma**2)))
    claimed = epsilon([gaussian_event(sigma, q, count)], delta)
    assert claimed < epsilon([gaussian_event(sigma, q, count)], delta, accountant="rdp") < 1.3 * claimed

    def simulated_delta(eps):
        return float(np.maximum(-np.expm1(np.minimum(eps - losses, 0)), 0).mean())

    error = 5 * math.sqrt(delta / trials)
    assert simulated_delta(claimed) <= delta + error
    assert simulated_delta(0.97 * claimed) >= delta - error


def worst_pairs(relation):
    """(u, v): the mean of the differing example in P and in Q."""
    return [(1, -1)] if relation == "replace_one" else [(1, 0), (0, 1)]


def directly_bracketed_delta(relation, sigma, q, count, eps):
    """Lower and upper bounds on the true δ(ε) of ``count`` compositions, computed without dp_accounting.

    The real line is cut into cells. For the lower bound only the cell is observed (post-processing cannot
    increase δ) and losses are rounded down; for the upper bound a cell takes its largest loss, rounded up.
    """
    x = np.linspace(-9 * sigma - 1, 9 * sigma + 1, 20_001)
    step = 2e-4

    def mass(mean):
        left, right = np.diff(norm.cdf(x, mean, sigma)), -np.diff(norm.sf(x, mean, sigma))
        return np.where(x[:-1] < mean, left, right)  # each where it has digits

    def density(mean):
        return (1 - q) * norm.pdf(x, 0, sigma) + q * norm.pdf(x, mean, sigma)

    def composed_delta(p, loss):
        index = np.ceil(loss / step).astype(int)
        masses = np.bincount(index - index.min(), weights=p)
        size = (len(masses) - 1) * count + 1
        composed = np.fft.irfft(np.fft.rfft(masses, 2 * size) ** count, 2 * size)[:size]
        losses = (np.arange(size) + index.min() * count) * step
        beyond = losses > eps
        return np.sum(composed[beyond] * -np.expm1(eps - losses[beyond]))

    lower, upper = 0.0, 0.0
    for u, v in worst_pairs(relation):
        p, other = ((1 - q) * mass(0) + q * mass(mean) for mean in (u, v))
        edge_loss = np.log(density(u) / density(v))
        lower = max(lower, composed_delta(p, np.log(p / other) - step))
        upper = max(
            upper, composed_delta(p, np.maximum(edge_loss[:-1], edge_loss[1:])) + count * (1 - p.sum())
        )
    return lower, upper


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(
    ("sigma", "q", "count"), [(1.0, 0.1, 1), (0.7, 0.3, 4), (2.0, 0.05, 20), (3.0, 0.5, 6)]
)
def test_agrees_with_a_direct_computation(relation, sigma, q, count):
    delta = 1e-5
    claimed = epsilon([gaussian_event(sigma, q, count)], delta, relation)
    lower, upper = directly_bracketed_delta(relation, sigma, q, count, claimed)
    assert lower <= delta, "ε is under-reported"
    assert upper <= 1.1 * delta
    lower, _ = directly_bracketed_delta(relation, sigma, q, count, 0.99 * claimed)
    assert lower > delta, "ε is more than 1 % too large"


@pytest.mark.parametrize("relation", RELATIONS)
@example(sigma=0.40625, q=0.40625, count=391, log_delta=-8.0)  # so large an ε that e^−ε underflows
@given(
    sigma=st.floats(0.4, 20), q=st.floats(0.001, 1.0), count=st.integers(1, 2000), log_delta=st.floats(-8, -2)
)
@settings(max_examples=25, deadline=None)
def test_rdp_is_never_below_pld(relation, sigma, q, count, log_delta):
    events = [gaussian_event(sigma, q, count)]
    delta = 10**log_delta
    pld, rdp = epsilon(events, delta, relation), epsilon(events, delta, relation, "rdp")
    assert pld <= rdp * 1.002 + 1e-3


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("q", [0.05, 1.0])
def test_replacing_costs_more_than_adding_and_less_than_removing_twice(accountant, q):
    def at(noise_multiplier, relation):
        return epsilon([gaussian_event(noise_multiplier, q, 50)], 1e-5, relation, accountant)

    assert at(2.0, "add_or_remove_one") * 1.2 < at(2.0, "replace_one")
    assert at(2.0, "replace_one") <= at(1.0, "add_or_remove_one") * 1.01


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@given(
    target=st.floats(0.3, 12),
    q=st.one_of(st.just(1.0), st.floats(0.005, 0.3)),
    steps=st.integers(1, 400),
    log_delta=st.floats(-7, -3),
)
@settings(max_examples=8, deadline=None)
def test_calibration_spends_between_99_and_100_percent(relation, accountant, target, q, steps, log_delta):
    budget = Budget(target, 10**log_delta, relation)
    sigma = calibrate_steps(q, steps, budget, accountant)
    spent = epsilon([gaussian_event(sigma, q, steps)], budget.delta, relation, accountant)
    assert 0.99 * target <= spent <= target


def test_calibration_composes_all_stages():
    """DP-MEPF-like release, a noisy count of fixed noise, and training, in one budget."""
    budget = Budget(2.0, 1e-5)

    def stages(sigma):
        return [
            gaussian_event(4 * sigma, replace_one_ratio=1.4),
            gaussian_event(sigma, 0.02, 300),
            gaussian_event(20.0),
        ]

    sigma = calibrate_noise_multiplier(stages, budget)
    assert 0.99 * 2.0 <= epsilon(stages(sigma), 1e-5) <= 2.0
    assert epsilon([gaussian_event(sigma, 0.02, 300)], 1e-5) < 1.98


def test_calibration_says_when_no_noise_suffices():
    with pytest.raises(InputError, match="cannot be reached"):
        calibrate_noise_multiplier(
            lambda sigma: [gaussian_event(1.0), gaussian_event(sigma)], Budget(1, 1e-5)
        )


def test_equal_events_are_merged_in_any_order():
    a, b = gaussian_event(2.0, 0.1, 30), gaussian_event(1.0, 0.1, 5)
    one_by_one = [gaussian_event(2.0, 0.1)] * 30
    assert merge_events([b, *one_by_one]) == merge_events([*one_by_one, b]) == merge_events([a, b])
    assert epsilon([*one_by_one, b], 1e-5) == epsilon([b, a], 1e-5)


def test_nothing_released_costs_nothing():
    assert epsilon([], 1e-5) == 0.0


def test_survives_extremes():
    assert epsilon([gaussian_event(1e-3, 0.5, 10)], 1e-5) > 1000
    assert epsilon([gaussian_event(0.02, 1.0, 10**7)], 1e-5) > 1000
    assert epsilon([gaussian_event(1e9)], 1e-5) == 0.0


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_tiny_rate_does_not_drown_in_rounding_error(relation):
    """One minus this rate is a float whose last digits matter, a million times over."""
    rare = [gaussian_event(1.0, 1e-9, 10**6)]
    assert 0 < epsilon(rare, 1e-5, relation) < epsilon(rare, 1e-5, relation, "rdp") < 1
    # Included at all with probability 1e-3 > δ, and then nearly exposed.
    exposed = [gaussian_event(0.12, 1e-9, 10**6)]
    assert 10 < epsilon(exposed, 1e-5, relation) < epsilon(exposed, 1e-5, relation, "rdp")


def test_json_keeps_an_event_exactly():
    event = gaussian_event(9.127406752511850, 4096 / 50_000, 875, 1.4142135623730951)
    assert Event.from_json(event.to_json()) == event


@pytest.mark.parametrize(
    "fields",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
        {"noise_multiplier": 1.0, "sample_rate": 0.0},
        {"noise_multiplier": 1.0, "sample_rate": 1.1},
        {"noise_multiplier": 1.0, "count": 0},
        {"noise_multiplier": 1.0, "count": 1.5},
        {"noise_multiplier": 1.0, "replace_one_ratio": 2.1},
    ],
)
def test_refuses_impossible_events(fields):
    with pytest.raises(InputError):
        gaussian_event(**fields)


@pytest.mark.parametrize(
    "arguments",
    [
        {"delta": 0.0},
        {"delta": 1e-10},
        {"delta": 1e-5, "neighboring_relation": "replace"},
        {"delta": 1e-5, "accountant": "prv"},
    ],
)
def test_refuses_impossible_questions(arguments):
    with pytest.raises(InputError):
        epsilon([gaussian_event(1.0)], **arguments)
