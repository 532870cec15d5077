"""Mislabelled images as canaries: what a classifier has learned by heart, told from the classifier alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.evaluation.accuracy import IMAGES_AT_A_TIME
from dpvision.evaluation.probabilities import log_probabilities
from dpvision.images import ImageSet
from dpvision.networks.classifier import Classifier
from dpvision.privacy.errors import InputError
from dpvision.privacy.noise import RandomSource


@dataclass(frozen=True, eq=False, repr=False)
class MislabelledImages:
    """A data set some images of which have one of two labels by a fair coin, none of them right if there are
    others.

    There are as many images whatever the coins say: the number is public, and batches depend on it. A coin
    decides between two data sets that differ by the content of one example.

    Attributes:
        images: with the labels that the coins chose.
        chosen: int64 ``[m]``, which images are canaries.
        labels: int64 ``[m, 2]``, a canary's label if its coin says out, and if it says in.
        included: bool ``[m]``, the coins.
    """

    images: ImageSet
    chosen: Tensor
    labels: Tensor
    included: Tensor

    @classmethod
    def of(cls, images: ImageSet, count: int, random: RandomSource) -> MislabelledImages:
        """Turn ``count`` of the images, chosen at random, into canaries.

        Raises:
            InputError: there are not as many images.
        """
        if count > len(images):
            raise InputError(f"there are {len(images)} images; {count} of them cannot be mislabelled")
        assert images.labels is not None
        chosen = random.uniform((len(images),)).argsort()[:count]
        preference = random.uniform((count, len(images.class_names)))
        preference[torch.arange(count), images.labels[chosen]] = -1  # the right one, only if it must be
        labels = preference.argsort(dim=1, descending=True)[:, :2]
        included = random.uniform((count,)) < 0.5
        given = images.labels.index_copy(0, chosen, labels.gather(1, included.long()[:, None])[:, 0])
        return cls(images.relabelled(given), chosen, labels, included)

    def scores(self, model: Classifier) -> Tensor:
        """Return by how much the classifier prefers the label of "in" to that of "out", float64 ``[m]``."""
        blocks = (self.images.take(some) for some in self.chosen.split(IMAGES_AT_A_TIME))
        found = log_probabilities(model, blocks).gather(1, self.labels)
        return found[:, 1] - found[:, 0]
