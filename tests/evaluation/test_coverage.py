"""Intervals contain the truth in 95 % of repetitions: made-up classifiers, of which the truth is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from dpvision.evaluation import intervals
from dpvision.evaluation.calibration import BINS, calibration_error
from dpvision.evaluation.classification import classifier_report
from dpvision.evaluation.classifier_report import ClassifierReport, Measured
from dpvision.evaluation.intervals import skewed_mean_interval
from dpvision.evaluation.roc import area, area_interval

Array = NDArray[np.float64]

REPETITIONS = 400
LEAST = 0.95 - 3 * (0.05 * 0.95 / REPETITIONS) ** 0.5
"""An interval that covers in 95 % of cases covers in fewer repetitions than this once in 700 times."""


def covers(draw: Callable[[], tuple[float, float]], truth: float, least: float = LEAST) -> float:
    """Check coverage. Returns the mean width, for an interval from 0 to 1 covers too."""
    found = np.array([draw() for _ in range(REPETITIONS)])
    share = float(((found[:, 0] <= truth) & (truth <= found[:, 1])).mean())
    assert share >= least, f"{share:.1%} of the intervals contain {truth:.4f}"
    return float(np.diff(found).mean())


def apart(random: np.random.Generator, members: int, others: int, by: float) -> Array:
    return np.concatenate([random.normal(by, 1, members), random.normal(0, 1, others)])


def outliers(random: np.random.Generator, members: int, others: int, rate: float) -> Array:
    """All faults are in members, each of which is below all others: no area varies more."""
    wrong = random.random(members) < rate
    return np.concatenate([np.where(wrong, -9, 9) + random.normal(size=members), random.normal(size=others)])


@pytest.mark.parametrize(("members", "others"), [(2, 2), (5, 5), (5, 100), (100, 100)])
@pytest.mark.parametrize("by", [0.0, 1.0, 3.0, 5.0])
def test_area(members: int, others: int, by: float) -> None:
    random = np.random.default_rng(0)
    truth = float(norm.cdf(by / 2**0.5))
    is_member = np.arange(members + others) < members

    def draw() -> tuple[float, float]:
        scores = apart(random, members, others, by)
        return area_interval(*area(scores, is_member), np.array([members, others]))

    width = covers(draw, truth)
    if members == 100:
        # Next to a normal interval of the true variance, by Hanley and McNeil (Radiology 143, 1982); where
        # hardly a pair is in the wrong order, that of 100 images that are all right.
        squares = truth / (2 - truth) + 2 * truth**2 / (1 + truth) - 2 * truth**2
        spread = ((truth * (1 - truth) + 99 * squares) / 100**2) ** 0.5
        assert width < 1.3 * 2 * 1.96 * spread + 0.04 * (by > 1)


@pytest.mark.parametrize(("members", "others"), [(5, 100), (20, 20), (100, 20)])
@pytest.mark.parametrize("rate", [0.005, 0.02, 0.1])
def test_area_where_all_faults_are_in_one_class(members: int, others: int, rate: float) -> None:
    random = np.random.default_rng(0)
    is_member = np.arange(members + others) < members
    covers(
        lambda: area_interval(
            *area(outliers(random, members, others, rate), is_member), np.array([members, others])
        ),
        1 - rate,
    )


def reports(counts: Sequence[int], sharpness: float, seed: int = 0) -> Callable[[], ClassifierReport]:
    """A classifier of several classes, each image's logits normal about its class."""
    random, labels = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    names = tuple(map(str, range(len(counts))))

    def draw() -> ClassifierReport:
        logits = random.normal(size=(len(labels), len(counts)))
        logits[np.arange(len(labels)), labels] += sharpness
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return classifier_report(logits, labels, names)

    return draw


@pytest.mark.parametrize(
    ("counts", "sharpness"),
    [
        ([10, 10], 1.0),
        ([30, 5, 5, 5], 3.0),
        ([60] * 4, 1.0),
        *(
            pytest.param(*more, marks=pytest.mark.slow)
            for more in (([3, 60], 2.0), ([5] * 10, 1.0), ([1] * 9, 2.0))
        ),
    ],
)
def test_balanced_accuracy_and_mean_area(
    counts: list[int], sharpness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = reports([3_000] * len(counts), sharpness)()
    monkeypatch.setattr(intervals, "RESAMPLES", 2)  # these two are not bootstrapped, and the others take long
    draw = reports(counts, sharpness, seed=1)
    for truth, name in ((made.balanced_accuracy, "balanced_accuracy"), (made.auc, "auc")):
        values: list[float] = []
        assert truth.value is not None
        width = covers(lambda name=name, values=values: interval_of(draw(), name, values), truth.value)
        if counts == [60] * 4:
            assert width < 1.2 * 2 * 1.96 * np.std(values)


def interval_of(report: ClassifierReport, name: str, values: list[float]) -> tuple[float, float]:
    figure: Measured = getattr(report, name)
    assert figure.value is not None
    assert figure.interval is not None
    values.append(figure.value)
    return figure.interval


def binary(random: np.random.Generator, count: int, sharper: float) -> tuple[Array, NDArray[np.bool_], Array]:
    """Confidences, what is right and losses of a classifier who says ``sharper`` times the log-odds."""
    odds = random.normal(0, 2, count)
    is_second = random.random(count) < 1 / (1 + np.exp(-odds))
    said = 1 / (1 + np.exp(-sharper * odds))
    losses = -np.log(np.where(is_second, said, 1 - said))
    return np.maximum(said, 1 - said), (said >= 0.5) == is_second, losses


@pytest.mark.parametrize("sharper", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("count", [10, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_calibration_error(sharper: float, count: int) -> None:
    random = np.random.default_rng(0)
    confidences, right, _ = binary(random, 2_000_000, sharper)
    bins = (confidences * BINS).astype(int)
    truth = float(np.abs(np.bincount(bins, right - confidences) / len(bins)).sum())
    width = covers(lambda: calibration_error(*binary(random, count, sharper)[:2])[1], truth)
    assert width < 2.5 / count**0.5


@pytest.mark.parametrize(("sharper", "least"), [(1.0, LEAST), (0.5, LEAST), (3.0, 0.88)])
@pytest.mark.parametrize("count", [10, 100, pytest.param(1000, marks=pytest.mark.slow)])
def test_log_loss(sharper: float, least: float, count: int) -> None:
    """Of few images and where losses are rare and large, no interval covers: it knows only those seen."""
    random = np.random.default_rng(0)
    truth = float(binary(random, 2_000_000, sharper)[2].mean())
    width = covers(lambda: skewed_mean_interval(binary(random, count, sharper)[2]), truth, least)
    if count == 1000:
        assert width < 0.2
