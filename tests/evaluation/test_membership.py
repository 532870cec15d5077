from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from dpvision.evaluation.intervals import proportion_interval
from dpvision.evaluation.membership import (
    attacks,
    centred_by_class,
    confidences,
    lira_scores,
    rate_interval,
)
from dpvision.images.images import Images
from dpvision.networks import Classifier
from dpvision.privacy import InputError


def test_an_attack_that_knows_nothing() -> None:
    random = np.random.default_rng(0)
    members = random.random(4000) < 0.5
    (found,) = attacks({"noise": random.normal(size=4000)}, members, 1.0, 1e-5)
    assert found.low < 0.5 < found.high
    for rate in found.rates:
        assert rate.false_positive_rate <= rate.at_most
        assert rate.low <= rate.true_positive_rate <= rate.high
        assert rate.low <= rate.at_most
        assert rate.true_positive_rate < rate.most_private


def test_rates_and_area_are_those_of_their_definitions() -> None:
    random = np.random.default_rng(1)
    members = np.arange(1500) < 500
    scores = np.round(random.normal(size=1500) + 1.5 * members, 1)  # with ties
    (found,) = attacks({"shifted": scores}, members, 2.0, 1e-3)
    assert found.auc == pytest.approx(roc_auc_score(members, scores))
    assert found.low < norm.cdf(1.5 / math.sqrt(2)) < found.high
    for rate in found.rates:
        # The best of all thresholds that let no more pass.
        thresholds = [t for t in np.unique(scores) if (scores[~members] > t).mean() <= rate.at_most]
        best = max((scores[members] > t).mean() for t in thresholds)
        assert rate.true_positive_rate == pytest.approx(best)
        assert rate.low <= best <= rate.high
        _, highest = proportion_interval(round(rate.false_positive_rate * 1000), 1000)
        expected = min(math.exp(2) * highest + 1e-3, 1 - math.exp(-2) * (1 - 1e-3 - highest))
        assert rate.most_private == pytest.approx(expected)


@pytest.mark.parametrize("others", [100, 1000, 10_000])
@pytest.mark.parametrize("at_most", [0.001, 0.01])
@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_the_interval_of_a_rate_covers(others: int, at_most: float, apart: float) -> None:
    """Also where few non-members say where the threshold is, and where nothing tells members from others."""
    random = np.random.default_rng(0)
    truth, missed = norm.sf(norm.isf(at_most) - apart), 0
    for _ in range(200):
        low, high = rate_interval(random.normal(apart, 1, 1000), random.normal(size=others), at_most)
        missed += not low <= truth <= high
    assert missed <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_the_interval_of_a_rate_is_narrow_where_there_are_many() -> None:
    random = np.random.default_rng(0)
    low, high = rate_interval(random.normal(1, 1, 100_000), random.normal(size=100_000), 0.01)
    assert 0.08 < low < norm.sf(norm.isf(0.01) - 1) < high < 0.11


def test_the_interval_of_the_area_covers() -> None:
    truth, covered = norm.cdf(1 / math.sqrt(2)), 0
    members = np.arange(300) < 200
    for seed in range(100):
        scores = np.random.default_rng(seed).normal(size=300) + members
        (found,) = attacks({"shifted": scores}, members, 1.0, 1e-5)
        covered += found.low <= truth <= found.high
    assert 88 <= covered <= 99


class Logits(nn.Module):
    """The logits of an image are its first pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x[:, 0, 0]


def test_confidences_are_log_odds_of_the_label() -> None:
    pixels = torch.tensor([[[[1, 5, 2]]], [[[255, 0, 0]]], [[[0, 255, 0]]]], dtype=torch.uint8)
    model = Classifier(Logits(), ("a", "b", "c"), (1, 1, 3), None)
    model.normalize = nn.Identity()  # type: ignore[assignment]
    found = confidences(model, Images(pixels, torch.tensor([1, 0, 0]), ("a", "b", "c"), "made up"))
    p = math.exp(5) / (math.exp(1) + math.exp(5) + math.exp(2))
    assert found[0] == pytest.approx(math.log(p / (1 - p)))
    assert found[1] == pytest.approx(255 - math.log(2))  # although 1 − p is zero in floating point
    assert found[2] == pytest.approx(-255)


def test_classes_are_centred() -> None:
    centred = centred_by_class(np.array([1.0, 2.0, 9.0, 5.0, 7.0]), np.array([0, 0, 0, 1, 1]))
    assert centred.tolist() == [-1, 0, 7, -1, 1]


def test_lira_finds_members_that_a_threshold_does_not() -> None:
    """Images differ in how easy they are, by far more than learning changes."""
    random = np.random.default_rng(2)
    easy = 5 * random.normal(size=1000)
    members = random.random(1000) < 0.5
    inside = random.random((32, 1000)) < 0.5
    shadow = easy + 0.5 * random.normal(size=(32, 1000)) + inside
    target = easy + 0.5 * random.normal(size=1000) + members
    scores = {"plain": target, "lira": lira_scores(target, shadow, inside)}
    plain, lira = attacks(scores, members, 8.0, 1e-5)
    assert plain.auc < 0.65
    assert lira.auc > 0.85
    best = norm.cdf(1 / 0.5 / math.sqrt(2))
    assert lira.auc < best + 0.03


def test_lira_is_the_ratio_of_normal_densities() -> None:
    inside = np.array([[True, False], [True, True], [False, False], [False, True]])
    shadow = np.array([[2.0, 0.0], [4.0, 3.0], [1.0, 2.0], [0.0, 5.0]])
    found = lira_scores(np.array([3.0, 1.0]), shadow, inside)
    spread_in = math.sqrt((1 + 1 + 1 + 1) / 2)
    spread_out = math.sqrt((0.25 + 0.25 + 1 + 1) / 2)
    expected = norm.logpdf([3, 1], [3, 4], spread_in) - norm.logpdf([3, 1], [0.5, 1], spread_out)
    assert found == pytest.approx(expected)
    with pytest.raises(InputError, match="in all shadow models or in none"):
        lira_scores(np.zeros(2), shadow, np.array([[True, False]] * 4))
