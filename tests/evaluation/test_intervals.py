from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from dpvision.evaluation.intervals import (
    jackknife_interval,
    mean_interval,
    proportion_interval,
    skewed_mean_interval,
)


def test_mean_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(size=12)
    expected = t.interval(0.95, 11, loc=values.mean(), scale=values.std(ddof=1) / np.sqrt(12))
    assert mean_interval(values) == pytest.approx(expected)


def test_jackknife_of_a_mean_is_the_interval_of_the_groups_means() -> None:
    groups = np.random.default_rng(0).normal(size=(10, 30))
    without = [np.delete(groups, g, axis=0).mean() for g in range(10)]
    interval = jackknife_interval(groups.mean(), without)
    assert interval == pytest.approx(mean_interval(groups.mean(axis=1)))


@pytest.mark.parametrize("successes", [0, 3, 10])
def test_proportion_interval_contains_the_proportion(successes: int) -> None:
    low, high = proportion_interval(successes, 10)
    assert 0 <= low <= successes / 10 <= high <= 1


@pytest.mark.parametrize("values", [[0.1, 3.0], [0.1, 0.2, 9.0], [2.0, 2.0]])
def test_bootstrap_t_of_a_few_values_is_not_within_students(values: list[float]) -> None:
    low, high = skewed_mean_interval(np.array(values))
    student = mean_interval(values)
    assert low <= student[0]
    assert high >= student[1]
