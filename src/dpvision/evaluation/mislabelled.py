"""Mislabelled images as canaries: what a classifier has learned by heart, told from the classifier alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.evaluation.accuracy import IMAGES_AT_A_TIME
from dpvision.evaluation.membership import mean_of_groups
from dpvision.evaluation.probabilities import log_probabilities_in_parts
from dpvision.images import ImageSet
from dpvision.networks.classifier import Classifier
from dpvision.privacy.errors import InputError
from dpvision.privacy.noise import RandomSource


@dataclass(frozen=True, eq=False, repr=False)
class MislabelledImages:
    """A data set some images of which have one of two labels by a fair coin, none of them right if there are
    others. Where there are units, all images of some units are such, by one coin each.

    There are as many images whatever the coins say: the number is public, and batches depend on it. A coin
    decides between two data sets that differ by the content of one example.

    Attributes:
        images: with the labels that the coins chose.
        chosen: int64 ``[n]``, which images have such labels.
        canary: int64 ``[n]``, of which of the m canaries each of these is.
        labels: int64 ``[n, 2]``, an image's label if the coin says out, and if it says in.
        included: bool ``[m]``, the coins.
    """

    images: ImageSet
    chosen: Tensor
    canary: Tensor
    labels: Tensor
    included: Tensor

    @classmethod
    def of(cls, images: ImageSet, count: int, random: RandomSource) -> MislabelledImages:
        """Turn ``count`` of the images, or units, chosen at random, into canaries.

        Raises:
            InputError: there are not as many.
        """
        if count > images.num_protected:
            what = "images" if images.units is None else "units"
            raise InputError(
                f"there are {images.num_protected} {what}; {count} of them cannot be mislabelled"
            )
        assert images.labels is not None
        canaries = random.uniform((images.num_protected,)).argsort()[:count]
        if images.units is None:
            chosen, canary = canaries, torch.arange(count)
        else:
            number = torch.full((len(images.units),), -1).index_copy(0, canaries, torch.arange(count))
            of_image = number[images.units.of_image]
            chosen = (of_image >= 0).nonzero().squeeze(1)
            canary = of_image[chosen]
        preference = random.uniform((len(chosen), len(images.class_names)))
        # The right one, only if it must be.
        preference[torch.arange(len(chosen)), images.labels[chosen]] = -1
        labels = preference.argsort(dim=1, descending=True)[:, :2]
        included = random.uniform((count,)) < 0.5
        by_coin = labels.gather(1, included[canary].long()[:, None])[:, 0]
        given = images.labels.index_copy(0, chosen, by_coin)
        return cls(images.relabelled(given), chosen, canary, labels, included)

    def scores(self, model: Classifier) -> Tensor:
        """Return by how much the classifier prefers the labels of "in" to those of "out", in the mean over a
        canary's images: float64 ``[m]``.
        """
        blocks = (self.images.take(some) for some in self.chosen.split(IMAGES_AT_A_TIME))
        found = torch.cat(list(log_probabilities_in_parts(model, blocks))).gather(1, self.labels)
        preferences = (found[:, 1] - found[:, 0]).numpy()
        return torch.from_numpy(mean_of_groups(preferences, self.canary.numpy()))
