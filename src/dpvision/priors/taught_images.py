"""Images that a classifier chooses among those of a generator, and whose classes it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dpvision.networks import Classifier
from dpvision.networks.by_row import rows_at_a_time
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.image_generator import ImageGenerator
from dpvision.priors.feature_classifier import rebuild_classifier
from dpvision.privacy.errors import InputError

MOST_CANDIDATES = 64
ROUNDS = 200
"""Of the fixed point that balances classes; each brings it nearer by a constant factor."""
SMALLEST = 1e-12


class TaughtImages(ImageGenerator):
    """Draws images of a class from a law until a teacher takes one for that class, or else the one that comes
    nearest. To look for better ones would make images alike. What the teacher says of the image that was
    taken is its soft label.

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
        if not 1 <= candidates <= MOST_CANDIDATES:
            raise InputError(
                f"the number of candidates must be from 1 to {MOST_CANDIDATES}, not {candidates}"
            )
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
        says = self.soft_labels(taken)
        for candidate in range(1, self.candidates):
            doubted = (says.argmax(dim=1) != labels).nonzero().squeeze(1)
            if not len(doubted):
                break
            wanted = labels[doubted]
            other = self.law(wanted, noise[doubted, candidate])
            found = self.soft_labels(other)
            is_taken = found.argmax(dim=1) == wanted
            is_better = is_taken | (_at(found, wanted) > _at(says[doubted], wanted))
            taken[doubted[is_better]] = other[is_better]
            says[doubted[is_better]] = found[is_better]
        return taken

    def traceable(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what makes all candidates and takes the first that the teacher takes for its class, or else
        the likeliest: `forward` makes no more than it needs, and takes the same.
        """
        law = self.law.traceable()

        def images(labels: Tensor, noise: Tensor) -> Tensor:
            wanted = labels[:, None].expand(-1, self.candidates)  # [B, candidates]
            made = law(wanted.reshape(-1), noise.flatten(0, 1)).unflatten(0, wanted.shape)
            says = torch.softmax(self.teacher.unchecked(made.flatten(0, 1)), dim=1).unflatten(0, wanted.shape)
            of_class = says.gather(2, wanted[:, :, None]).squeeze(2)
            rank = torch.where(says.argmax(dim=2) == wanted, 2.0, of_class)  # argmax is the first of equals
            taken = rank.argmax(dim=1)[:, None, None, None, None].expand(-1, 1, *self.image_shape)
            return made.gather(1, taken).squeeze(1)

        return images

    @torch.no_grad()
    def soft_labels(self, pixels: Tensor) -> Tensor:
        """Return what the teacher takes for the probabilities of the classes of images ``[B, C, H, W]``,
        ``[B, K]``.
        """
        return torch.softmax(self._logits(pixels), dim=1)

    @torch.no_grad()
    def balance(self, count: int, seed: int) -> None:
        """Shift the teacher's logits until the mean soft label of candidates is the share of each class among
        them. A teacher that never saw such images takes most of them for a few classes.

        Args:
            count: how many candidates to look at.
            seed: of their noise.
        """
        logits = self._logits(self.law.sample(count, seed=seed).take(torch.arange(count)))
        shares = (self.class_proportions / self.class_proportions.sum()).clamp(min=1 / count)
        found = torch.zeros_like(shares)
        for _ in range(ROUNDS):
            mean = torch.softmax(logits + found, dim=1).mean(dim=0)
            found = found + (shares / mean.clamp(min=SMALLEST)).log()
        before = self.teacher.offsets
        self.teacher.shift((found if before is None else before + found).tolist())

    def _logits(self, pixels: Tensor) -> Tensor:
        """Return the teacher's logits of images on any device, some at a time: features take much memory."""
        device = self.class_proportions.device
        parts = pixels.split(rows_at_a_time(device))
        return torch.cat([self.teacher(some.to(device)).float() for some in parts])


def _at(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return what ``[B, K]`` says of the class of each of ``[B]``."""
    return probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
