from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dpvision.evaluation.roc import area, placements


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
