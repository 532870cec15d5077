"""Images that a classifier chooses among those of a generator, and whose classes it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpvision.networks import Classifier
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.image_generator import IMAGES_AT_A_TIME, ImageGenerator
from dpvision.priors.feature_classifier import rebuild_classifier
from dpvision.privacy.errors import InputError

GOOD_ENOUGH = 0.5
"""An image that its class is so probable of is taken: to look for a better one would make images alike."""
ROUNDS = 200
"""Of the fixed point that balances classes; each brings it nearer by a constant factor."""
SMALLEST = 1e-12


class TaughtImages(ImageGenerator):
    """Draws several images of a class from a law, and takes the first that a teacher has no doubt of, or the
    one that it doubts least. What the teacher says of the image that was taken is its soft label.

    Args:
        law: the generator of candidates.
        teacher: a classifier of the same classes.
        candidates: how many images are drawn for one, at most.

    Raises:
        InputError: the teacher knows other classes or images, or there are no candidates.
    """

    kind = "taught"

    def __init__(self, law: ClampedNormal, teacher: Classifier, candidates: int) -> None:
        super().__init__(law.image_shape, law.class_names)
        if teacher.class_names != law.class_names or tuple(teacher.image_shape) != law.image_shape:
            raise InputError("a teacher must know the classes and the shape of the images that it chooses")
        if candidates < 1:
            raise InputError(f"the number of candidates must be at least 1, not {candidates}")
        self.law, self.teacher, self.candidates = law, teacher, candidates
        self.class_proportions.copy_(law.class_proportions)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "law": self.law.config,
            "teacher": self.teacher.config,
            "candidates": self.candidates,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TaughtImages:
        teacher = rebuild_classifier(config["teacher"])
        return cls(ClampedNormal.from_config(config["law"]), teacher, int(config["candidates"]))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.candidates, *self.law.noise_shape)

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        taken = self.law(labels, noise[:, 0])
        probability = self._of_class(taken, labels)
        for candidate in range(1, self.candidates):
            doubted = (probability < GOOD_ENOUGH).nonzero().squeeze(1)
            if not len(doubted):
                break
            other = self.law(labels[doubted], noise[doubted, candidate])
            found = self._of_class(other, labels[doubted])
            better = found > probability[doubted]
            taken[doubted[better]] = other[better]
            probability[doubted[better]] = found[better]
        return taken

    def soft_labels(self, pixels: Tensor) -> Tensor:
        """Return what the teacher takes for the probabilities of the classes of images ``[B, C, H, W]``,
        ``[B, K]``.
        """
        logits: Tensor = self.teacher(pixels)
        return torch.softmax(logits.float(), dim=1)

    @torch.no_grad()
    def balance(self, images_of_a_class: int, seed: int) -> None:
        """Shift the teacher's logits until the mean soft label of candidates is the share of each class among
        them. A teacher that never saw such images takes most of them for a few classes.

        Args:
            images_of_a_class: how many candidates to look at, on average.
            seed: of their noise.
        """
        count = images_of_a_class * len(self.class_names)
        pixels = self.law.sample(count, seed=seed).take(torch.arange(count))
        device = self.class_proportions.device
        logits = torch.cat([self.teacher(some.to(device)).float() for some in pixels.split(IMAGES_AT_A_TIME)])
        shares = (self.class_proportions / self.class_proportions.sum()).clamp(min=1 / count)
        found = torch.zeros_like(shares)
        for _ in range(ROUNDS):
            mean = torch.softmax(logits + found, dim=1).mean(dim=0)
            found = found + (shares / mean.clamp(min=SMALLEST)).log()
        before = self.teacher.offsets
        self.teacher.shift((found if before is None else before + found).tolist())

    def _of_class(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return the probability of its class for each image, ``[B]``."""
        return self.soft_labels(pixels).gather(1, labels.unsqueeze(1)).squeeze(1)
