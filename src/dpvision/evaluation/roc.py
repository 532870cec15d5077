"""The area under the ROC curve: how often an image of a class has a greater score than another image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from dpvision.evaluation.intervals import bounded_interval

Array = NDArray[np.float64]


def placements(members: Array, others: Array) -> tuple[Array, Array]:
    """Compute of each member's score the share of others below it, and of each other's score the share of
    members above it; equal scores count half. The mean of either is the area under the ROC curve.
    """
    ranks = rankdata(np.concatenate([members, others]))
    m, n = len(members), len(others)
    return (ranks[:m] - rankdata(members)) / n, 1 - (ranks[m:] - rankdata(others)) / m


def area(scores: Array, members: NDArray[np.bool_]) -> tuple[float, Array]:
    """Compute the area under the ROC curve, and each example's influence on it.

    Args:
        scores: ``[N]``, greater for members.
        members: ``[N]``, some true and some false.

    Returns the area, and influences ``[N]``: the sum of their squares over N² is its variance as DeLong
    et al. estimate it (Biometrics 44, 1988). The mean of influences on several areas is that on their
    mean.
    """
    above, below = placements(scores[members], scores[~members])
    value = float(above.mean())
    influence = np.empty(len(scores))
    for chosen, found in ((members, above), (~members, below)):
        # A single example does not show how much examples differ: its influence is 0 here.
        unbiased = math.sqrt(len(found) / max(len(found) - 1, 1))
        influence[chosen] = (found - value) * len(scores) / len(found) * unbiased
    return value, influence


def area_interval(value: float, influence: Array, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return a 95 % interval for an area under the ROC curve, or for the mean over classes of such areas.

    Args:
        value, influence: the area and each example's influence on it.
        counts: the number of examples of each class, of two (members and others) or more.
    """
    variance = float((influence**2).sum()) / len(influence) ** 2
    # Of two classes, whichever has fewer examples may be the one that all faults are in.
    return bounded_interval(value, variance, len(counts) ** 2 / 2 / float((1 / counts).sum()))


def curve(scores: Array, members: NDArray[np.bool_], points: int = 101) -> list[tuple[float, float]]:
    """Return the ROC curve at so many false-positive rates, evenly spread from 0 to 1: each with the largest
    share of members that a threshold finds while no larger share of others passes. Arguments as of
    :func:`area`.
    """
    thresholds = np.sort(scores[~members])[::-1]
    own = np.sort(scores[members])
    found = []
    for rate in np.linspace(0, 1, points):
        passing = int(rate * len(thresholds) + 1e-9)
        # Those above the first that must not pass; all, where all others may.
        above = -np.inf if passing >= len(thresholds) else thresholds[passing]
        hits = len(own) if passing >= len(thresholds) else len(own) - np.searchsorted(own, above, "right")
        found.append((float(rate), float(hits / len(own))))
    return found
