"""Calibration: whether images that a classifier is so and so sure of are right so and so often."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from dpvision.evaluation.intervals import CONFIDENCE, proportion_interval, resamples

BINS = 15
"""Bins of equal width, as in Guo et al., "On Calibration of Modern Neural Networks" (arXiv 1706.04599)."""


def calibration_error(
    confidences: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[float, tuple[float, float]]:
    """Return the expected calibration error, and a 95 % interval for that of infinitely many images.

    It is the mean over the images of how far, in the bin of an image's confidence, of `BINS`, the share of
    images that are right is from the mean confidence. Chance makes these distances longer, so that of few
    images it is too large: a perfectly calibrated classifier has more than 0 too.

    Args:
        confidences: ``[N]``, the probability of the class that each image was given.
        right: ``[N]``, whether it is that of the image.

    The interval covers in spite of the bias. Below: what is measured exceeds the truth by at most the sum of
    the bins' errors, whose distribution is bootstrapped. Above: the truth is a mean of N differences between
    right (0 or 1) and confidence, with the signs of the bins, which what is measured is no less than; its
    variance is at most that of the mean of squares, for which the upper limit of a share is taken.
    """
    count = len(confidences)
    bins = _bins(confidences)
    gaps = right - confidences

    def by_bin(indices: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = np.arange(len(indices))[:, None] * BINS + bins[indices]
        sums = np.bincount(rows.ravel(), weights=gaps[indices].ravel(), minlength=len(indices) * BINS)
        return sums.reshape(len(indices), BINS) / count

    (found,) = by_bin(np.arange(count)[None])
    value = float(np.abs(found).sum())
    errors = np.concatenate([np.abs(by_bin(some) - found).sum(axis=1) for some in resamples(count)])
    below = float(np.quantile(errors, (1 + CONFIDENCE) / 2))
    _, squares = proportion_interval(float((gaps**2).sum()), count)
    above = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(squares / count)
    return value, (max(0.0, value - below), min(1.0, value + above))


def reliability(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> list[tuple[float, int, int]]:
    """Return for each bin of confidence that has images: their mean confidence, how many are right, and how
    many there are. Arguments are those of :func:`calibration_error`.
    """
    bins = _bins(confidences)
    totals = np.bincount(bins, minlength=BINS)
    sums, hits = (np.bincount(bins, weights=of, minlength=BINS) for of in (confidences, right))
    return [(float(sums[k] / totals[k]), int(hits[k]), int(totals[k])) for k in np.flatnonzero(totals)]


def _bins(confidences: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
