"""What counts for the worst image, and what still fits: compared with the exact formula of Gaussians."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from dpvision.privacy import (
    Account,
    Budget,
    BudgetExceeded,
    InputError,
    Ledger,
    calibrate_noise_multiplier,
    epsilon,
    gaussian_event,
)
from dpvision.privacy.image_index import ImageIndex, IndexedImages
from dpvision.privacy.standing import (
    Limit,
    Standing,
    check_limits,
    largest_fit,
    outcome,
    round_down,
    worst,
)

DELTA = 1e-5
LEDGER = Path("ledger.jsonl")


def exact_epsilon(sigmas: Sequence[float], delta: float = DELTA) -> float:
    """ε of sums with Gaussian noise, one of each σ: δ(ε) = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ) where μ² = Σ σ⁻²
    (Balle and Wang, arXiv 1805.06530, theorem 8; Dong et al., arXiv 1905.02383, corollary 3.3).
    """
    mu = math.sqrt(sum(sigma**-2 for sigma in sigmas))

    def excess(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - np.exp(eps + norm.logcdf(-mu / 2 - eps / mu)) - delta)

    return float(brentq(excess, 0.0, 200.0, xtol=1e-12)) if excess(0.0) > 0 else 0.0


def exact_sigma(eps: float, delta: float = DELTA) -> float:
    return float(brentq(lambda sigma: exact_epsilon([sigma], delta) - eps, 0.1, 1e4, xtol=1e-12))


def standing(sigmas: Sequence[float], limit: float, images: int = 10, delta: float = DELTA) -> Standing:
    events = tuple(gaussian_event(sigma) for sigma in sigmas)
    return Standing(images, events, (Limit(Budget(limit, delta), LEDGER),))


class Owners:
    """Ledgers a and b and the index in a folder, with one run on images 0 to 59 and one on 40 to 99."""

    SIGMAS = (2.0, 3.0)

    def __init__(self, folder: Path) -> None:
        self.index = ImageIndex(folder / "images")
        self.a, self.b = (Ledger.for_dataset(folder / f"{name}.jsonl", name * 64, 60) for name in ("a", "b"))
        parts = ((self.a, range(60)), (self.b, range(40, 100)))
        for (ledger, numbers), sigma in zip(parts, self.SIGMAS, strict=True):
            self.run(ledger, numbers, sigma)

    def run(self, ledger: Ledger, numbers: range, sigma: float) -> None:
        event = gaussian_event(sigma)
        images = IndexedImages(self.index, self.index.identities(digests(numbers)))
        account = Account(Budget(50.0, DELTA), ledger, f"run {sigma}", [event], images)
        account.open()
        account.record(event)
        account.close()

    def standings(self, ledger: Ledger, numbers: range | None) -> list[Standing]:
        return self.index.standings([ledger], None if numbers is None else digests(numbers))


def digests(numbers: range) -> list[bytes]:
    return [hashlib.sha256(b"%d" % number).digest() for number in numbers]


@pytest.fixture
def owners(tmp_path: Path) -> Owners:
    return Owners(tmp_path)


@pytest.mark.parametrize("at_hand", [True, False])
def test_overlapping_sets_are_composed_as_the_formula_says(owners: Owners, at_hand: bool) -> None:
    """With the images at hand, or by what the index knows of the ledger's runs."""
    one, two = owners.SIGMAS
    at = Budget(1.0, DELTA)
    for ledger, numbers, alone in ((owners.a, range(60), one), (owners.b, range(40, 100), two)):
        found = owners.standings(ledger, numbers if at_hand else None)
        spent = {part.images: (part.epsilon(at), part.elsewhere) for part in found}
        assert spent.keys() == {20, 40}
        assert spent[20] == (pytest.approx(exact_epsilon([one, two]), rel=1e-3), 1)
        assert spent[40] == (pytest.approx(exact_epsilon([alone]), rel=1e-3), 0)
        most, images = worst(found, at)
        assert (most, images.images, images.elsewhere) == (spent[20][0], 20, 1)


def test_a_plan_is_composed_with_what_the_worst_image_has(owners: Owners) -> None:
    """The limit is that of one owner, the run on images of both and of nobody."""
    owners.a.set_limit(Budget(1.5 * exact_epsilon(owners.SIGMAS), DELTA))
    found = owners.index.standings([], digests(range(30, 200)))
    after = outcome(found, [gaussian_event(4.0)])
    assert after is not None
    assert after.epsilon == pytest.approx(exact_epsilon([*owners.SIGMAS, 4.0]), rel=1e-3)
    assert (after.images, after.is_allowed, after.limit.ledger) == (20, True, owners.a.path)
    assert outcome(owners.index.standings([], digests(range(60, 200))), [gaussian_event(4.0)]) is None
    fits = largest_fit(found, Budget(1.0, DELTA))
    left = sum(owners.SIGMAS[i] ** -2 for i in (0, 1))
    expected = (exact_sigma(after.limit.budget.epsilon) ** -2 - left) ** -0.5
    assert fits == pytest.approx(exact_epsilon([expected]), rel=2e-3)


@example(sigmas=[4.0], limit=2.0625, delta=1e-3)
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.7, 30.0), max_size=4),
    st.floats(0.2, 8.0),
    st.sampled_from([1e-6, 1e-5, 1e-3]),
)
def test_what_fits_fits_and_is_the_largest_by_the_formula(
    sigmas: list[float], limit: float, delta: float
) -> None:
    found, at = standing(sigmas, limit, delta=delta), Budget(limit, delta)
    fits = largest_fit([found], at)
    left = exact_sigma(limit, delta) ** -2 - sum(sigma**-2 for sigma in sigmas)
    largest = exact_epsilon([left**-0.5], delta) if left > 1e-6 else 0.0
    stated = epsilon([gaussian_event(left**-0.5)], delta) if left > 1e-6 else 0.0
    assert fits <= stated * (1 + 1e-6)  # what a run with the noise of the largest would be charged
    assert stated <= largest * (1 + 1e-4)  # the accountant's grid rounds up
    if fits:
        sigma = calibrate_noise_multiplier(lambda sigma: [gaussian_event(sigma)], Budget(fits, delta))
        check_limits([found], [gaussian_event(sigma)])
    spent = exact_epsilon(sigmas, delta) if sigmas else 0.0
    if spent < 0.99 * limit:
        assert fits >= 0.99 * largest
    if spent > limit:
        assert fits == 0


def test_compositions_do_not_add_up() -> None:
    """1.48 of 3 is spent: more than the difference fits."""
    found = standing([exact_sigma(1.48)], 3.0)
    fits = largest_fit([found], Budget(3.0, DELTA))
    by_hand = exact_epsilon([(exact_sigma(3.0) ** -2 - exact_sigma(1.48) ** -2) ** -0.5])
    assert 3.0 - 1.48 < 2.4 < fits <= by_hand
    assert fits == pytest.approx(by_hand, rel=1e-3)


def test_the_tightest_limit_of_all_decides_and_each_at_its_own_delta() -> None:
    wide = standing([3.0], 8.0)
    tight = standing([2.0, 3.0], 3.0, images=5, delta=1e-3)
    at = Budget(1.0, DELTA)
    both, alone = largest_fit([wide, tight], at), largest_fit([tight], at)
    assert both == pytest.approx(alone, rel=2e-3)
    assert both < 0.9 * largest_fit([wide], at)
    sigma = calibrate_noise_multiplier(lambda sigma: [gaussian_event(sigma)], Budget(both, DELTA))
    check_limits([wide, tight], [gaussian_event(sigma)])


def test_a_refusal_says_what_would_fit() -> None:
    found = standing([exact_sigma(1.48)], 3.0)
    fits = round_down(largest_fit([found], Budget(3.0, DELTA)))
    with pytest.raises(BudgetExceeded, match=f"one Gaussian release of epsilon {fits:g} would fit"):
        check_limits([found], [gaussian_event(1.0)])
    with pytest.raises(BudgetExceeded, match="nothing fits any more"):
        check_limits([standing([1.0], 1.0)], [gaussian_event(1.0)])


def test_steps_of_training_that_were_spent_leave_what_fits_beside_them() -> None:
    steps = gaussian_event(1.1, 0.02, 500)
    at = Budget(2 * epsilon([steps], DELTA), DELTA)
    found = Standing(10, (steps,), (Limit(at, LEDGER),))
    fits = largest_fit([found], at)
    sigma = calibrate_noise_multiplier(lambda sigma: [gaussian_event(sigma)], Budget(fits, DELTA))
    assert 0.99 * at.epsilon < found.epsilon(at, [gaussian_event(sigma)]) <= at.epsilon
    assert fits > at.epsilon / 2


@pytest.mark.parametrize(("value", "rounded"), [(2.99999, 2.999), (0.12345, 0.1234), (1234.5, 1234), (0, 0)])
def test_rounding_goes_down(value: float, rounded: float) -> None:
    assert round_down(value) == pytest.approx(rounded)
    assert round_down(value) <= value


def test_reading_makes_no_index(tmp_path: Path) -> None:
    ledger = Ledger.for_dataset(tmp_path / "a.jsonl", "a" * 64, 3)
    before = sorted(tmp_path.iterdir())
    index = ImageIndex(tmp_path / "images")
    assert index.standings([ledger], digests(range(3))) == [Standing(3, ())]
    assert index.standings([ledger], None) == [Standing(3, ())]
    assert sorted(tmp_path.iterdir()) == before


def test_reading_changes_no_index_and_needs_its_key(owners: Owners) -> None:
    files = {path: path.read_bytes() for path in owners.index.folder.iterdir()}
    owners.standings(owners.a, range(200))
    assert {path: path.read_bytes() for path in owners.index.folder.iterdir()} == files
    (owners.index.folder / "lock").unlink()
    owners.standings(owners.a, range(200))
    assert not (owners.index.folder / "lock").exists()
    (owners.index.folder / "key").unlink()
    with pytest.raises(InputError, match="restore it from a copy"):
        owners.standings(owners.a, range(60))
    assert not (owners.index.folder / "key").exists()
