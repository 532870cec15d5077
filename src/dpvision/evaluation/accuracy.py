"""Classification accuracy with its confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from dpvision.evaluation.intervals import proportion_interval
from dpvision.images import ImageSet
from dpvision.networks.classifier import Classifier
from dpvision.privacy.errors import InputError

IMAGES_AT_A_TIME = 128
"""As fast as a thousand on a CPU, and a large network holds some hundred megabytes of them, not gigabytes."""


@dataclass(frozen=True)
class Accuracy:
    """The accuracy on a set of images: ``correct`` of ``total`` were classified right.

    >>> found = Accuracy(correct=4_500, total=5_000)
    >>> f"{found.value:.1%}, {found.interval[0]:.2%} to {found.interval[1]:.2%}"
    '90.0%, 89.13% to 90.82%'
    """

    correct: int
    total: int

    @property
    def value(self) -> float:
        """The fraction classified right."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % confidence interval of Clopper and Pearson (Biometrika 26, 1934).

        It accounts for the finite test set, not for the randomness of training.
        """
        return proportion_interval(self.correct, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2%} (95 % interval {low:.2%} to {high:.2%}, n = {self.total})"


@torch.inference_mode()
def accuracy(model: nn.Module, images: ImageSet, batch_size: int = IMAGES_AT_A_TIME) -> Accuracy:
    """Return the accuracy of a model on labelled images, in evaluation mode, on the device of its parameters.

    Args:
        model: maps uint8 ``[B, C, H, W]`` to logits ``[B, num_classes]``. The labels of the images are
            matched to a :class:`Classifier`'s classes by name; for any other model they must be its indices.
        images: the images, labelled.
        batch_size: images per forward pass; does not change the result.

    Raises:
        InputError: if the images have no labels, or one of a class that the classifier does not know.
    """
    if isinstance(model, Classifier):
        images = images.with_classes(model.class_names)
    if images.labels is None:
        raise InputError(f"{images.source} has no labels; accuracy needs labelled images")
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        correct = 0
        for pixels, labels in zip(images.blocks(batch_size), images.labels.split(batch_size), strict=True):
            predicted = model(pixels.to(device)).argmax(dim=1)
            correct += int((predicted == labels.to(device)).sum())
    finally:
        model.train(was_training)
    return Accuracy(correct, len(images))
