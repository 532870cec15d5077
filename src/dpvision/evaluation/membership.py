"""Membership inference: how well a classifier tells the images that it learned from, from others.

Scores are those of Carlini et al., "Membership Inference Attacks From First Principles" (arXiv 2112.03570),
which also says why they are judged by the true-positive rate at a low false-positive rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from dpvision.evaluation.intervals import CONFIDENCE, proportion_interval
from dpvision.evaluation.probabilities import log_probabilities
from dpvision.evaluation.roc import placements
from dpvision.images import ImageSet
from dpvision.networks.classifier import Classifier
from dpvision.privacy.errors import InputError

Array = NDArray[np.float64]

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
LEAST_SPREAD = 1e-3
"""Least standard deviation of confidences, in nats: less would say more than was measured."""


@dataclass(frozen=True)
class Rate:
    """The share of members that a threshold finds while few non-members pass it.

    Attributes:
        at_most, false_positive_rate: the largest share of non-members that may pass, and the share that does
            pass: the largest that some threshold allows.
        true_positive_rate: the share of members that pass; ``low`` to ``high``: a 95 % interval of the share
            that passes where exactly ``at_most`` of all non-members would, see `rate_interval`. If nothing
            tells members from non-members, that is ``at_most``.
        most_private: the true-positive rate that (ε, δ) allows if as many non-members pass as at the upper
            end of their 95 % interval.
    """

    at_most: float
    false_positive_rate: float
    true_positive_rate: float
    low: float
    high: float
    most_private: float


@dataclass(frozen=True)
class Attack:
    """The result of one kind of score at telling members from non-members.

    Attributes:
        name: the name of the score.
        auc: the area under the ROC curve; 1/2 for guesses. ``low`` to ``high``: its 95 % interval (DeLong et
            al., Biometrics 44, 1988).
        rates: the true-positive rates at low false-positive rates.
    """

    name: str
    auc: float
    low: float
    high: float
    rates: tuple[Rate, ...]


def confidences(model: Classifier, images: ImageSet) -> Array:
    """Compute log p/(1 − p), p the probability of an image's own label, ``[N]``: nearly normal over models
    (section VI-A of the paper).
    """
    images = images.with_classes(model.class_names)
    assert images.labels is not None
    found = log_probabilities(model, images)
    own = found.gather(1, images.labels[:, None])[:, 0]
    others = found.scatter(1, images.labels[:, None], -math.inf).logsumexp(dim=1)
    return np.asarray((own - others).numpy())


def centred_by_class(scores: Array, labels: NDArray[np.int64]) -> Array:
    """Subtract the median of the image's class: what is easy for its class says little of an image."""
    centred = scores.copy()
    for label in np.unique(labels):
        centred[labels == label] -= np.median(scores[labels == label])
    return centred


def mean_of_groups(scores: Array, groups: NDArray[np.int64]) -> Array:
    """Return the mean score ``[m]`` of each group, of scores ``[n]`` and their groups ``[n]``, 0 … m − 1."""
    return np.asarray(np.bincount(groups, scores) / np.bincount(groups))


def lira_scores(target: Array, shadow: Array, inside: NDArray[np.bool_]) -> Array:
    """Compute the scores of online LiRA (Algorithm 1 of the paper): of each image, the likelihood ratio of
    its confidence under models that learned from it against those that did not, each normal with a mean of
    its own and, as the paper does with few models, a variance that all images share.

    Args:
        target: ``[N]``, confidences of the model that is attacked.
        shadow: ``[S, N]``, those of the shadow models.
        inside: ``[S, N]``, which images each of them learned from.

    Raises:
        InputError: an image is in all shadow models, or in none.
    """
    if inside.all(axis=0).any() or not inside.any(axis=0).all():
        raise InputError("an image was in all shadow models or in none; use more of them")

    def log_density(chosen: NDArray[np.bool_]) -> Array:
        means = np.where(chosen, shadow, 0).sum(axis=0) / chosen.sum(axis=0)
        deviations = np.where(chosen, shadow - means, 0)
        degrees = chosen.sum() - shadow.shape[1]
        spread = max(math.sqrt((deviations**2).sum() / max(degrees, 1)), LEAST_SPREAD)
        return np.asarray(norm.logpdf(target, means, spread))

    return log_density(inside) - log_density(~inside)


def attacks(
    scores: Mapping[str, Array], members: NDArray[np.bool_], epsilon: float, delta: float
) -> tuple[Attack, ...]:
    """Measure how well each kind of score, ``[N]``, tells who is a member, bool ``[N]``."""
    return tuple(
        Attack(
            name,
            *_auc(found[members], found[~members]),
            tuple(
                _rate(found[members], found[~members], at_most, epsilon, delta)
                for at_most in FALSE_POSITIVE_RATES
            ),
        )
        for name, found in scores.items()
    )


def _rate(members: Array, others: Array, at_most: float, epsilon: float, delta: float) -> Rate:
    allowed = math.floor(at_most * len(others))
    # As many are above it, or fewer where some are equal.
    threshold = np.sort(others)[len(others) - 1 - allowed]
    false_positives = int((others > threshold).sum())
    true_positives = int((members > threshold).sum())
    _, highest = proportion_interval(false_positives, len(others))
    allowed_by_dp = (
        math.exp(min(epsilon, 700.0)) * highest + delta,
        1 - math.exp(-epsilon) * (1 - delta - highest),
    )
    return Rate(
        at_most,
        false_positives / len(others),
        true_positives / len(members),
        *rate_interval(members, others, at_most),
        min(1.0, *allowed_by_dp),
    )


def rate_interval(members: Array, others: Array, false_positive_rate: float) -> tuple[float, float]:
    """Return a 95 % interval of the share of members whose score passes the threshold that exactly this share
    of all non-members would pass, whatever the scores' laws are.

    Where that threshold is, is known by the non-members' order statistics alone: of all non-members, the
    share above the i-th largest of n has the law Beta(i, n − i + 1). So at one of them, surely high enough,
    members are counted for the lower end, and at one that is surely low enough for the upper end. Either
    threshold and either count (Clopper and Pearson) is wrong with a probability of at most 1.25 %. Of few
    non-members none is high enough, and the interval begins at 0.
    """
    n, tail = len(others), (1 - CONFIDENCE) / 4
    ranked, places = np.sort(others)[::-1], np.arange(1, len(others) + 1)
    low, high = 0.0, 1.0
    strict = np.flatnonzero(beta.sf(false_positive_rate, places, n - places + 1) <= tail)
    if len(strict):
        found = int((members > ranked[strict[-1]]).sum())
        low, _ = proportion_interval(found, len(members), 1 - 2 * tail)
    loose = np.flatnonzero(beta.cdf(false_positive_rate, places, n - places + 1) <= tail)
    if len(loose):
        found = int((members >= ranked[loose[0]]).sum())
        _, high = proportion_interval(found, len(members), 1 - 2 * tail)
    return low, high


def _auc(members: Array, others: Array) -> tuple[float, float, float]:
    """Compute the area under the ROC curve and its interval, by ranks."""
    m, n = len(members), len(others)
    above, below = placements(members, others)
    area = float(above.mean())
    variance = above.var(ddof=1) / m + below.var(ddof=1) / n if min(m, n) > 1 else 0.25
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt(variance))
    return area, max(0.0, area - half), min(1.0, area + half)
