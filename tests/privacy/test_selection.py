"""A selection among trials costs what it says: its law, its bound, how it is written, another accountant."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from dpvision.privacy import (
    Account,
    Budget,
    BudgetExceeded,
    Event,
    FullBatch,
    InputError,
    Ledger,
    NeighboringRelation,
    SecureRandom,
    SeededRandom,
    calibrate_noise_multiplier,
    epsilon,
    gaussian_event,
    merge_events,
)
from dpvision.privacy.accounting import privacy_profile
from dpvision.privacy.events import SelectionEvent, written
from dpvision.privacy.second_accountant import delta_at
from dpvision.privacy.second_selection import renyi_with_selections
from dpvision.privacy.selection import SelectionMechanism
from dpvision.privacy.trial_count import TrialCount

RELATIONS: tuple[NeighboringRelation, ...] = ("add_or_remove_one", "replace_one")
TWO = ((gaussian_event(2.0, 0.05, 60), gaussian_event(12.0)), (gaussian_event(9.0, count=4),))

GRID = np.linspace(-60, 60, 24_001)
STEP = float(GRID[1] - GRID[0])


def rise(below: np.ndarray, mean: float) -> np.ndarray:
    """The logarithm of the derivative of E[x^K], term by term."""
    law = TrialCount(mean)
    return np.asarray(np.log(sum(law.probability(k) * k * below ** (k - 1) for k in range(1, 100))))


def best_of(centre: float, noise: float, mean: float) -> np.ndarray:
    """The log-density on `GRID` of the largest of K normal numbers."""
    below = norm.cdf(GRID, centre, noise)
    return np.asarray(norm.logpdf(GRID, centre, noise) + rise(below, mean))


def moment(log_p: np.ndarray, log_q: np.ndarray, order: float) -> float:
    """∫ p^λ·q^(1−λ)."""
    return float(np.exp(order * log_p + (1 - order) * log_q).sum() * STEP)


def hockey_stick(log_p: np.ndarray, log_q: np.ndarray, at: float) -> float:
    return float(np.maximum(np.exp(log_p) - np.exp(at + log_q), 0).sum() * STEP)


@pytest.mark.parametrize("mean", [1.001, 1.5, 2.0, 8.0, 40.0, 900.0])
def test_the_number_of_trials_has_its_mean_and_no_zero(mean: float) -> None:
    law = TrialCount(mean)
    chances = [law.probability(k) for k in range(3000)]
    assert chances[0] == 0
    assert sum(chances) == pytest.approx(1, abs=1e-9)
    assert sum(k * chance for k, chance in enumerate(chances)) == pytest.approx(mean, rel=1e-9)
    assert math.exp(law.log_mean) == pytest.approx(mean, rel=1e-12)


def test_it_is_drawn_by_that_law() -> None:
    law, random = TrialCount(3.0), SeededRandom(0)
    drawn = np.array([law.draw(random) for _ in range(20_000)])
    assert drawn.min() == 1
    for k in range(1, 8):
        expected = 20_000 * law.probability(k)
        assert abs((drawn == k).sum() - expected) < 5 * math.sqrt(expected)


@pytest.mark.parametrize("mean", [1.0, 0.0, -1.0, 1001.0, math.nan, math.inf])
def test_a_mean_that_cannot_be(mean: float) -> None:
    with pytest.raises(InputError, match="expected number of trials must be above 1"):
        TrialCount(mean)


@pytest.mark.parametrize("mean", [1.5, 4.0, 20.0])
@pytest.mark.parametrize("noise", [0.8, 3.0, 12.0])
def test_the_bound_holds_where_the_divergence_can_be_computed(noise: float, mean: float) -> None:
    """Trials that release one number, by which the largest is chosen; neighbours move it by one."""
    best_p, best_q = best_of(1, noise, mean), best_of(0, noise, mean)
    event = SelectionEvent.of([[gaussian_event(noise)]], mean)
    orders = (1.5, 2.0, 4.0, 9.0)
    bounds = event.renyi_divergences(orders, "add_or_remove_one")
    found = [
        math.log(max(moment(best_p, best_q, order), moment(best_q, best_p, order))) / (order - 1)
        for order in orders
    ]
    assert all(one <= bound for one, bound in zip(found, bounds, strict=True))
    # The same number of trials for the price of one would be too cheap.
    single = gaussian_event(noise).renyi_divergences(orders, "add_or_remove_one")
    assert any(one > bound for one, bound in zip(found, single, strict=True))
    for delta in (1e-2, 1e-5):
        stated = epsilon([event], delta)
        assert max(hockey_stick(best_p, best_q, stated), hockey_stick(best_q, best_p, stated)) <= delta


def test_candidates_that_differ_are_bounded_by_the_worst_of_them() -> None:
    """A trial draws one of two noises; which one is part of what is released."""
    noises, orders = (1.0, 4.0), (1.5, 3.0, 8.0)

    def best(centre: float) -> list[np.ndarray]:
        below = sum(norm.cdf(GRID, centre, noise) for noise in noises) / 2
        return [norm.logpdf(GRID, centre, noise) - math.log(2) + rise(below, 6.0) for noise in noises]

    both = SelectionEvent.of([[gaussian_event(noise)] for noise in noises], 6.0)
    bounds = both.renyi_divergences(orders, "add_or_remove_one")
    for first, second in ((best(1), best(0)), (best(0), best(1))):
        for order, bound in zip(orders, bounds, strict=True):
            moments = [moment(one, other, order) for one, other in zip(first, second, strict=True)]
            assert math.log(sum(moments)) / (order - 1) <= bound
    worst = SelectionEvent.of([[gaussian_event(1.0)]], 6.0).renyi_divergences(orders, "add_or_remove_one")
    assert (bounds >= worst).all()
    least = SelectionEvent.of([[gaussian_event(4.0)]], 6.0).renyi_divergences(orders, "add_or_remove_one")
    assert (bounds > least).all()


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(
    ("trials", "mean"),
    [
        (((gaussian_event(5.0),),), 8.0),
        (((gaussian_event(5.0, replace_one_ratio=1.0),),), 2.0),
        (((gaussian_event(1.0, 0.01, 300), gaussian_event(20.0)),), 4.0),
        (((gaussian_event(1.0, 0.001, 50), gaussian_event(20.0)),), 4.0),
        (TWO, 8.0),
    ],
)
def test_a_second_accountant_finds_the_same(trials: Any, mean: float, relation: NeighboringRelation) -> None:
    event = SelectionEvent.of(trials, mean)
    stated, again = epsilon([event], 1e-5, relation), renyi_with_selections([event], [], 1e-5, relation)
    assert again * (1 - 1e-4) <= stated <= again * 1.02
    sums = [gaussian_event(3.0, 0.1, 20)]
    stated = epsilon([event.times(2), *sums], 1e-5, relation)
    again = renyi_with_selections([event.times(2)], sums, 1e-5, relation)
    assert again * (1 - 1e-4) <= stated <= again * 1.02


@pytest.mark.parametrize("relation", RELATIONS)
def test_its_delta_of_a_trial_is_that_of_privacy_losses(relation: NeighboringRelation) -> None:
    for trial in TWO:
        for at in (0.01, 0.2, 1.0):
            (by_pld,) = privacy_profile(trial, np.array([at]), relation)
            found = delta_at(trial, at, relation)
            assert found is not None
            assert found == pytest.approx(by_pld, rel=2e-3)


def test_it_costs_more_than_a_trial_and_more_with_more_of_them() -> None:
    trial = [gaussian_event(6.0)]
    costs = [epsilon([SelectionEvent.of([trial], mean)], 1e-5) for mean in (1.01, 2.0, 8.0, 30.0)]
    assert epsilon(trial, 1e-5) < costs[0]
    assert costs == sorted(costs)
    noise = calibrate_noise_multiplier(
        lambda sigma: [SelectionEvent.of([[gaussian_event(sigma)]], 8.0)], Budget(1.0, 1e-5)
    )
    # The figure in the documentation: the price of eight trials, as a multiple of the noise.
    alone = calibrate_noise_multiplier(lambda sigma: [gaussian_event(sigma)], Budget(1.0, 1e-5))
    assert noise / alone == pytest.approx(1.81, abs=0.01)


def test_it_is_written_read_back_spent_and_composed(tmp_path: Path) -> None:
    event = SelectionEvent.of(TWO, 8.0)
    assert Event.from_json(json.loads(json.dumps(written(event)))) == event
    assert SelectionEvent.of([trial[::-1] for trial in (*TWO, *TWO)], 8.0) == event
    other = SelectionEvent.of(TWO[:1], 8.0)
    assert merge_events([event, other, gaussian_event(2.0), event]) == merge_events(
        [gaussian_event(2.0), event.times(2), other]
    )
    ledger = Ledger.for_dataset(tmp_path / "data.jsonl", "ab" * 32, 1000)
    account = Account(Budget(50.0, 1e-5), ledger, "run", [event, gaussian_event(9.0)])
    account.open()
    account.record(event)
    again = Ledger(ledger.path).open_run("run", [event, gaussian_event(9.0)])
    assert again == (event,)
    with pytest.raises(BudgetExceeded):
        Ledger(ledger.path).record("run", event)
    both = epsilon([event, gaussian_event(9.0)], 1e-5)
    assert max(epsilon([event], 1e-5), epsilon([gaussian_event(9.0)], 1e-5)) < both
    assert account.epsilon_planned() == both == epsilon([event, gaussian_event(9.0)], 1e-5, accountant="rdp")


def test_what_is_no_selection_is_refused() -> None:
    for trials in ((), ((),), ((SelectionEvent.of(TWO, 2.0),),), ((gaussian_event(1.0),),) * 33):
        with pytest.raises(InputError):
            SelectionEvent(trials, 8.0)
    with pytest.raises(InputError, match="by Rényi divergences alone"):
        SelectionEvent.of(TWO, 8.0).to_dp_event("add_or_remove_one")


def test_the_mechanism_draws_candidates_alike_and_releases_no_sums() -> None:
    events = tuple((gaussian_event(sigma),) for sigma in (2.0, 3.0, 4.0))
    mechanism = SelectionMechanism(events, 5.0, FullBatch(100))
    drawn = [mechanism.draw(SecureRandom()) for _ in range(3000)]
    counts = np.bincount([candidate for one in drawn for candidate in one], minlength=3)
    assert len(counts) == 3
    assert abs(counts - counts.mean()).max() < 6 * math.sqrt(counts.mean())
    assert np.mean([len(one) for one in drawn]) == pytest.approx(5.0, abs=0.3)
    assert mechanism.cost(2) == SelectionEvent.of(events, 5.0).times(2)
    with pytest.raises(TypeError):
        mechanism.release({}, Account(Budget(1.0, 1e-5), None, "run", []), SecureRandom())
