"""95 % confidence intervals, and the figure that carries one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, t

from dpvision.privacy.errors import InputError

CONFIDENCE = 0.95
RESAMPLES = 1_000
DRAWN_AT_A_TIME = 2_000_000
"""Most indices of a bootstrap that are held at a time."""


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


def proportion_interval(
    successes: float, total: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the exact interval of Clopper and Pearson (Biometrika 26, 1934) for a proportion of numbers
    that need not be whole.
    """
    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, successes, total - successes + 1)) if successes > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, total - successes)) if successes < total else 1.0
    return low, high


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


def bounded_interval(value: float, variance: float, count: float) -> tuple[float, float]:
    """Return an interval for a figure from 0 to 1 whose variance was estimated: that of a share of as many
    examples as have this variance (Korn and Graubard, Survey Methodology 24, 1998).

    Near 0 and 1 the variance that is seen may be far below the true one, and nothing at 0 and 1 themselves.
    So the variance of ``count`` examples that are all alike, half a one added of each kind, is added to it:
    then the interval is about that of a share of ``count`` examples. Elsewhere it is next to nothing.

    Args:
        value: the figure.
        variance: its variance, as estimated.
        count: how many independent examples it is the mean of, at the worst.
    """

    def shrunken(share: float) -> float:
        part = (share * count + 0.5) / (count + 1)
        return part * (1 - part)

    effective = shrunken(value) / (variance + shrunken(1.0) / count)
    return proportion_interval(value * effective, effective)


def check_numpy_seed(seed: int) -> None:
    """Raise InputError for a seed that NumPy does not take."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be from 0 to 2**32 - 1, not {seed}")


def resamples(count: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of bootstrap samples of so many examples, ``[some, count]``, `RESAMPLES` in all."""
    random = np.random.default_rng(seed)
    at_a_time = max(1, DRAWN_AT_A_TIME // count)
    for start in range(0, RESAMPLES, at_a_time):
        yield random.integers(count, size=(min(at_a_time, RESAMPLES - start), count))


def skewed_mean_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the bootstrap-t interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section
    12.5) for the mean of independent values, of which there are at least two: it heeds their skewness, which
    Student's does not, and is never within Student's.
    """
    low, high = mean_interval(values)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return low, high
    found = []
    for indices in resamples(len(values)):
        drawn = values[indices]
        errors = drawn.std(axis=1, ddof=1) / math.sqrt(len(values))
        differs = errors > 0
        found.append((drawn.mean(axis=1) - values.mean())[differs] / errors[differs])
    lower, upper = np.quantile(np.concatenate(found), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    mean = float(values.mean())
    return min(low, mean - float(upper) * error), max(high, mean - float(lower) * error)


def _quantile(count: int) -> float:
    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
