"""The lower bounds themselves are tested: by simulation, by the published code, by linear programming."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.stats import binom

from dpvision.privacy import Budget, Event, InputError, calibrate_noise_multiplier, epsilon, gaussian_event
from dpvision.privacy.audit import (
    Tally,
    all_correct,
    check_canaries,
    epsilon_lower_bound,
    f_dp_lower_bound,
    p_value,
    refutes,
    tally,
)
from dpvision.privacy.trade_off import NO_DIFFERENCE, TradeOff

DELTA = 1e-5
RELATION = "add_or_remove_one"
CONFIDENCE = 0.95


def most_failures(runs: int) -> int:
    """So many failures of a bound that holds with 95 % are exceeded in one of a thousand tests."""
    return int(binom.ppf(0.999, runs, 1 - CONFIDENCE))


def guesses(seed: int, canaries: int, separation: float) -> tuple[Tally, ...]:
    """Of a run whose scores are normal, their means ``separation`` apart."""
    random = np.random.default_rng(seed)
    included = random.random(canaries) < 0.5
    return tally(random.normal(size=canaries) + separation * included, included)


@lru_cache
def gaussian(epsilon: float) -> Event:
    """The Gaussian mechanism that is (ε, δ)-private and no better."""
    budget = Budget(epsilon, DELTA)
    return gaussian_event(calibrate_noise_multiplier(lambda sigma: [gaussian_event(sigma)], budget))


@pytest.mark.parametrize("canaries", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_where_nothing_leaks_the_bounds_are_zero(canaries: int) -> None:
    runs = [guesses(seed, canaries, 0.0) for seed in range(600)]
    events = [gaussian(1.0)]
    by_curves = [f_dp_lower_bound(canaries, found, events, DELTA, RELATION, CONFIDENCE) for found in runs]
    by_any = [epsilon_lower_bound(canaries, found, DELTA, CONFIDENCE) for found in runs]
    assert sum(bound > 0 for bound in by_curves) <= most_failures(600)
    assert sum(bound > 0 for bound in by_any) <= most_failures(600)
    assert any(bound > 0 for bound in by_curves)  # the test uses up its significance, or nearly


def check_bounds_of_a_gaussian(true_epsilon: float, canaries: int, runs: int, bounds: int) -> None:
    """No more runs refute the truth than may; the mean of the first few bounds is at least half of it."""
    event = gaussian(true_epsilon)
    found = [guesses(seed, canaries, 1 / event.noise_multiplier) for seed in range(runs)]
    curve = TradeOff.of([event], RELATION)
    assert sum(refutes(canaries, one, curve, CONFIDENCE) for one in found) <= most_failures(runs)
    by_any = [epsilon_lower_bound(canaries, one, DELTA, CONFIDENCE) for one in found]
    assert sum(bound > true_epsilon for bound in by_any) <= most_failures(runs)
    by_curves = [
        f_dp_lower_bound(canaries, one, [event], DELTA, RELATION, CONFIDENCE) for one in found[:bounds]
    ]
    assert sum(bound > true_epsilon for bound in by_curves) <= most_failures(bounds)
    assert np.mean(by_curves) >= true_epsilon / 2


@pytest.mark.parametrize(("true_epsilon", "canaries"), [(1.0, 10_000), (2.0, 10_000), (8.0, 1000)])
def test_of_a_known_gaussian_the_bounds_stay_below_epsilon_and_come_to_half_of_it(
    true_epsilon: float, canaries: int
) -> None:
    check_bounds_of_a_gaussian(true_epsilon, canaries, runs=60, bounds=6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("true_epsilon", "canaries"),
    [(1.0, 10_000), (2.0, 10_000), (4.0, 1000), (4.0, 10_000), (8.0, 1000), (8.0, 10_000)],
)
def test_the_same_with_many_runs(true_epsilon: float, canaries: int) -> None:
    check_bounds_of_a_gaussian(true_epsilon, canaries, runs=500, bounds=100)


@pytest.mark.parametrize("believed", [1.0, 8.0])
def test_the_bound_does_not_depend_on_what_noise_was_planned(believed: float) -> None:
    found = guesses(3, 10_000, 1 / gaussian(4.0).noise_multiplier)
    bound = f_dp_lower_bound(10_000, found, [gaussian(believed)], DELTA, RELATION, CONFIDENCE)
    right = f_dp_lower_bound(10_000, found, [gaussian(4.0)], DELTA, RELATION, CONFIDENCE)
    assert bound == pytest.approx(right, rel=0.02)
    assert 2 < right < 4


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
def test_the_p_value_is_that_of_the_published_code(delta: float) -> None:
    def published(m: int, r: int, v: int, eps: float) -> float:
        """Appendix D of arXiv 2305.08846, in its words."""
        q = 1 / (1 + np.exp(-eps))
        beta = binom.sf(v - 1, r, q)
        alpha, total = 0.0, 0.0
        for i in range(1, v + 1):
            total += binom.pmf(v - i, r, q)
            alpha = max(alpha, total / i)
        return float(min(beta + alpha * delta * 2 * m, 1))

    for m, r, v, eps in [(1000, 100, 80, 0.5), (1000, 1000, 540, 0.0), (50, 20, 20, 2.0), (50, 20, 0, 1.0)]:
        assert p_value(m, r, v, eps, delta) == pytest.approx(published(m, r, v, eps), rel=1e-9)


@pytest.mark.parametrize("epsilons", [0.5, 2.0])
@pytest.mark.parametrize(("canaries", "made"), [(10, 10), (24, 8)])
def test_the_recursion_finds_the_most_that_the_inequalities_allow(
    epsilons: float, canaries: int, made: int
) -> None:
    """The largest P[C ≥ c] under all of them at once, by linear programming."""
    curve = TradeOff.of([gaussian_event(1 / epsilons)], RELATION)
    few = TradeOff(curve.epsilons[::8], curve.deltas[::8])
    numbers = np.arange(made + 1)
    rows: list[NDArray[np.float64]] = []
    limits: list[float] = []
    for least in range(1, made + 1):
        right = np.where(numbers >= least, numbers / canaries, 0)
        wrong = np.where(numbers >= least - 1, (made - numbers) / canaries, 0)
        for eps, delta in zip(few.epsilons, few.deltas, strict=True):
            rows += [right - np.exp(eps) * wrong, right * np.exp(eps) - wrong]
            limits += [delta, np.exp(eps) - 1 + delta]  # the latter: of the complements
    for correct in range(made // 2, made + 1):
        solved = linprog(
            -(numbers >= correct).astype(float),
            A_ub=np.array(rows),
            b_ub=np.array(limits),
            A_eq=np.ones((1, made + 1)),
            b_eq=[1.0],
        )
        most = -solved.fun

        def is_refuted(significance: float, correct: int = correct) -> bool:
            return refutes(canaries, [Tally(made, correct, 1.0)], few, 1 - significance)

        assert not is_refuted(most * 0.995)
        assert most > 0.99 or is_refuted(min(most * 1.005, 0.999))


@given(st.integers(20, 300), st.data())
def test_more_right_guesses_never_make_a_smaller_bound(canaries: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, canaries - 1))
    fewer, more = ([Tally(canaries, number, 1.0)] for number in (correct, correct + 1))
    assert epsilon_lower_bound(canaries, fewer, DELTA, 0.95) <= epsilon_lower_bound(
        canaries, more, DELTA, 0.95
    )
    assert refutes(canaries, fewer, NO_DIFFERENCE, 0.95) <= refutes(canaries, more, NO_DIFFERENCE, 0.95)


def test_guesses_go_by_the_scores() -> None:
    scores = np.arange(100.0)
    included = scores >= 50
    few, most = tally(scores, included)
    assert (few.guesses, few.correct) == (10, 10)
    assert (most.guesses, most.correct) == (80, 80)
    assert [found.correct for found in tally(-scores, included)] == [0, 0]
    mixed = included.copy()
    mixed[[0, 50, 89, 99]] = [True, False, False, False]
    assert [found.correct for found in tally(scores, mixed)] == [8, 77]
    assert few.share + most.share == pytest.approx(1)
    assert tally(np.arange(20.0), np.arange(20) >= 10) == all_correct(20)


def test_guesses_of_equal_scores_know_nothing() -> None:
    random = np.random.default_rng(0)
    included = random.random(10_000) < 0.5
    for found in tally(np.zeros(10_000), included):
        assert abs(found.correct / found.guesses - 0.5) < 4 * 0.5 / found.guesses**0.5


def test_without_noise_the_bound_is_what_was_said_to_be_the_largest() -> None:
    events = [gaussian_event(1.0)]
    largest = f_dp_lower_bound(1000, all_correct(1000), events, DELTA, RELATION, CONFIDENCE)
    assert largest > 2 * epsilon(events, DELTA)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="at least 20, not 19"):
        check_canaries(19)
    with pytest.raises(InputError, match="at least 20, not 3"):
        tally(np.zeros(3), np.zeros(3, dtype=bool))
    with pytest.raises(InputError, match="not a number"):
        tally(np.full(20, np.nan), np.zeros(20, dtype=bool))
    for confidence in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="confidence must lie strictly between 0 and 1"):
            epsilon_lower_bound(100, all_correct(100), DELTA, confidence)
        with pytest.raises(InputError, match="confidence must lie strictly between 0 and 1"):
            f_dp_lower_bound(100, all_correct(100), [gaussian_event(1.0)], DELTA, RELATION, confidence)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_test_has_only_its_share_of_the_significance(share: float) -> None:
    level = 1 - share * (1 - CONFIDENCE)
    for correct in range(50, 90):
        part, whole = [Tally(100, correct, share)], [Tally(100, correct, 1.0)]
        assert refutes(1000, part, NO_DIFFERENCE, CONFIDENCE) == refutes(1000, whole, NO_DIFFERENCE, level)
        assert epsilon_lower_bound(1000, part, DELTA, CONFIDENCE) == pytest.approx(
            epsilon_lower_bound(1000, whole, DELTA, level)
        )
