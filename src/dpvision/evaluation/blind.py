"""The blind attack: do members differ from non-members in kind, so that anybody tells them apart who has
never seen the model? Then no attack's figures say what the model remembers (Das, Zhang and Tramèr, "Blind
Baselines Beat Membership Inference Attacks for Foundation Models", arXiv 2406.16201).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from dpvision.evaluation.membership import mean_of_groups
from dpvision.evaluation.roc import area, area_interval
from dpvision.images import ImageSet

FOLDS = 5
FEWEST = 20  # images, or units, of each set
MOST_IMAGES = 10_000
"""Most images of each set that are looked at, chosen at random."""

SIDE = 8
PAIRS_COUNT = 2
"""Of two images in different folds each is scored by what was learned from the other, so that what both have
in common by chance counts twice: where the sets do not differ, the variance of the AUC is twice that of
scores which were learned elsewhere. `tests/evaluation/test_blind.py` counts how often such sets are said to
differ.
"""

PENALTY = 0.1
"""scikit-learn's C: features are many beside few images, most of which tell nothing."""


@dataclass(frozen=True)
class Blind:
    """How well images alone, without the model, tell members from non-members.

    Attributes:
        auc: the area under the ROC curve of a classifier that never saw the model, nor the images (and none
            of the same units) that it is asked about; 1/2 for guesses. ``low`` to ``high``: its 95 %
            interval.
        sets_differ: whether the interval is above 1/2: the two sets differ in kind.
    """

    auc: float
    low: float
    high: float
    sets_differ: bool

    def warning(self, sets: str) -> str | None:
        """Say what follows, if ``sets`` differ in kind; None where they were not seen to."""
        if not self.sets_differ:
            return None
        return (
            f"{sets} differ in kind: a classifier that never saw the model tells them apart by the images "
            f"alone, with an AUC of {self.auc:.3f} ({self.low:.3f} to {self.high:.3f}), so that an attack's "
            "AUC measures the difference of the sets and not what the model remembers; compare images of the "
            "same kind (this is private: do not publish it)"
        )


def blind_attack(members: ImageSet, others: ImageSet, *, seed: int = 0) -> Blind | None:
    """Try to tell members from non-members by a logistic regression on simple features of the images, each
    scored by one that has learned from other images.

    Features are: the mean and spread of each channel and how much neighbouring pixels differ, with their
    squares; the shares of black and white; the image averaged to 8×8; and its class, where both sets have the
    same classes.

    Args:
        members, others: images of the same shape.
        seed: of the choice of images and of the folds.

    Returns:
        How well it did: of units, by the mean over their images; None where a set has fewer than 20 images,
        or units, which say nothing.
    """
    if min(members.num_protected, others.num_protected) < FEWEST:
        return None
    random = np.random.default_rng(seed)
    sets = [_some(images, random) for images in (members, others)]
    with_units = all(images.units is not None for images in sets)
    groups = [_groups(images, with_units) for images in sets]
    counts = [int(group.max()) + 1 for group in groups]
    is_member = np.repeat([True, False], [len(images) for images in sets])
    folds = [random.permutation(count) % FOLDS for count in counts]
    fold = np.concatenate([fold[group] for fold, group in zip(folds, groups, strict=True)])
    features = np.concatenate([_features(*of_set) for of_set in _with_same_classes(sets)])
    scores = _scores(features, is_member, fold)
    of_sets = np.split(scores, [len(sets[0])])
    scores = np.concatenate([mean_of_groups(*each) for each in zip(of_sets, groups, strict=True)])
    value, influence = area(scores, np.arange(len(scores)) < counts[0])
    low, high = area_interval(value, math.sqrt(PAIRS_COUNT) * influence, np.array(counts))
    return Blind(value, low, high, low > 0.5)


def _some(images: ImageSet, random: np.random.Generator) -> ImageSet:
    if len(images) <= MOST_IMAGES:
        return images
    chosen = np.sort(random.choice(len(images), MOST_IMAGES, replace=False))
    return images.subset(torch.from_numpy(chosen))


def _with_same_classes(sets: Sequence[ImageSet]) -> list[tuple[ImageSet, bool]]:
    """Return the sets, and with each whether its classes are compared: then they are in the same order."""
    members, others = sets
    labelled = members.labels is not None and others.labels is not None
    if not (labelled and set(members.class_names) == set(others.class_names)):
        return [(members, False), (others, False)]
    return [(members, True), (others.with_classes(members.class_names), True)]


def _groups(images: ImageSet, with_units: bool) -> NDArray[np.int64]:
    """Return of which unit each image is, ``[N]``; each of its own without any."""
    if with_units and images.units is not None:
        return np.asarray(images.units.of_image.numpy())
    return np.arange(len(images))


def _features(images: ImageSet, with_classes: bool) -> NDArray[np.float32]:
    """Return the features ``[N, D]`` of images."""
    found = torch.cat([_of_block(block) for block in images.blocks()])
    if with_classes and images.labels is not None:
        found = torch.cat([found, one_hot(images.labels, len(images.class_names)).float()], dim=1)
    return np.asarray(found.numpy())


def _of_block(pixels: Tensor) -> Tensor:
    """Return the features ``[n, D]`` of images uint8 ``[n, C, H, W]``."""
    x = pixels.float() / 255
    _, _, height, width = x.shape
    steps = [x.diff(dim=dim).abs().sum(dim=(2, 3)) / (height * width) for dim in (2, 3)]
    moments = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0), *steps], dim=1)
    ends = [(pixels == end).float().mean(dim=(1, 2, 3))[:, None] for end in (0, 255)]
    small = adaptive_avg_pool2d(x, (min(SIDE, height), min(SIDE, width))).flatten(1)
    return torch.cat([moments, moments**2, *ends, small], dim=1)


def _scores(
    features: NDArray[np.float32], is_member: NDArray[np.bool_], fold: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the log-odds ``[N]`` that an image is a member, each by what was learned from other folds."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scores = np.empty(len(features))
    for number in range(FOLDS):
        held_out = fold == number
        model = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=300))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it counts as it is
            model.fit(features[~held_out], is_member[~held_out])
        scores[held_out] = model.decision_function(features[held_out])
    return scores
