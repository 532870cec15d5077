from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from dpvision.evaluation.roc import area, curve, placements


def test_area_and_variance_are_those_of_their_definitions() -> None:
    """The sums over pairs, and DeLong's variance of their rows and columns."""
    random = np.random.default_rng(0)
    scores, members = np.round(random.normal(size=40), 1), np.arange(40) % 4 == 0
    scores[members] += 0.5
    pairs = scores[members][:, None] - scores[~members]
    won = (pairs > 0) + (pairs == 0) / 2
    assert (pairs == 0).any()
    above, below = placements(scores[members], scores[~members])
    assert above == pytest.approx(won.mean(axis=1))
    assert below == pytest.approx(won.mean(axis=0))
    value, influence = area(scores, members)
    assert value == pytest.approx(won.mean()) == pytest.approx(roc_auc_score(members, scores))
    delong = won.mean(axis=1).var(ddof=1) / 10 + won.mean(axis=0).var(ddof=1) / 30
    assert (influence**2).sum() / 40**2 == pytest.approx(delong)


def test_a_single_member_has_no_influence() -> None:
    value, influence = area(np.array([0.5, 0.1, 0.9]), np.array([True, False, False]))
    assert value == 0.5
    assert influence[0] == 0
    assert influence[1:].any()


def test_the_curve_is_that_of_scikit_learn() -> None:
    """At each false-positive rate the largest true-positive rate that a threshold has; ties pass together."""
    random = np.random.default_rng(0)
    scores, members = np.round(random.normal(size=300), 1), np.arange(300) % 3 == 0
    scores[members] += 1
    false, true, _ = roc_curve(members, scores, drop_intermediate=False)
    found = curve(scores, members)
    assert [rate for rate, _ in found] == pytest.approx(np.linspace(0, 1, 101))
    for rate, hits in found:
        assert hits == pytest.approx(true[false <= rate + 1e-9].max())
    assert found[-1] == (1, 1)
    perfect = curve(np.arange(4.0), np.arange(4) > 1, points=3)
    assert perfect == [(0, 1), (0.5, 1), (1, 1)]
