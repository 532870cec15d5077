"""95 % confidence intervals, and the figure that carries one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figure:
    """A figure that was measured on two sets of images, with its confidence interval.

    Attributes:
        value: the figure.
        low, high: its 95 % confidence interval, which contains value.
        num_synthetic, num_real: the number of images of each set that it was measured on.
    """

    value: float
    low: float
    high: float
    num_synthetic: int
    num_real: int


def proportion_interval(successes: int, total: int) -> tuple[float, float]:
    """Return the exact interval of Clopper and Pearson (Biometrika 26, 1934) for a proportion."""
    interval = binomtest(successes, total).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return Student's interval for the mean of independent values, of which there are at least two."""
    half = _quantile(len(values)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def jackknife_interval(value: float, without_one: Sequence[float]) -> tuple[float, float]:
    """Return value ± Student's quantile times the standard error of the delete-a-group jackknife (Kott,
    Journal of Official Statistics 17, 2001, section 2).

    Args:
        value: the value over all examples.
        without_one: the same figure without each of G groups in turn, into which chance divided the examples.
    """
    G = len(without_one)
    half = _quantile(G) * (G - 1) / math.sqrt(G) * float(np.std(without_one, ddof=1))
    return value - half, value + half


def _quantile(count: int) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
