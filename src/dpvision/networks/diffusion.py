"""Images drawn by a denoiser: from noise to an image in a few steps, the same for the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.networks.denoiser import Denoiser, centres_of, packed, preconditioning
from dpvision.networks.image_generator import ImageGenerator
from dpvision.privacy.errors import InputError

MOST_NOISE, LEAST_NOISE = 80.0, 0.02
"""Standard deviations of the noise at the first step and at the last, for pixels from −1 to 1."""
MOST_STEPS, MOST_GUIDANCE = 1000, 100.0
MOST_TRACED = 100
"""Steps that a trace may have: it has the whole network for each of them."""
CURVE = 7.0
"""ρ of Karras et al.: the larger, the more steps are taken at little noise."""


class DiffusionGenerator(ImageGenerator):
    """Draws images of given classes by a :class:`Denoiser`.

    It follows the ordinary differential equation of Karras et al. (arXiv 2206.00364, equation 1) by the
    multistep solver of second order of Lu et al. (arXiv 2211.01095, algorithm 2), which calls the network
    once a step.

    Args:
        image_shape: (C, H, W), a square.
        class_names: the class names in the order of labels.
        width, patch, rank: those of the :class:`Denoiser`.
        steps: how often the network is called for an image.
        guidance: g draws images that are more of their class than the network knows of it: what it says with
            the class, and g times what that differs by from what it says without (Ho and Salimans, arXiv
            2207.12598). 0 calls it with the class alone.

    Raises:
        InputError: a value is out of range.
    """

    kind = "diffusion"

    def __init__(
        self,
        image_shape: Sequence[int],
        class_names: Sequence[str],
        width: int,
        patch: int,
        rank: int,
        steps: int,
        guidance: float = 0.0,
    ) -> None:
        super().__init__(image_shape, class_names)
        if not (type(steps) is int and 1 <= steps <= MOST_STEPS):
            raise InputError(f"a generator calls its network 1 to {MOST_STEPS} times an image, not {steps!r}")
        if not (isinstance(guidance, int | float) and 0 <= guidance <= MOST_GUIDANCE):
            raise InputError(f"guidance must be from 0 to {MOST_GUIDANCE:g}, not {guidance!r}")
        self.denoiser = Denoiser(image_shape, len(self.class_names), width, patch, rank)
        self.width, self.patch, self.rank = width, patch, rank
        self.steps, self.guidance = steps, guidance

    @property
    def config(self) -> dict[str, Any]:
        return {
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "width": self.width,
            "patch": self.patch,
            "rank": self.rank,
            "steps": self.steps,
            "guidance": self.guidance,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DiffusionGenerator:
        return cls(**config)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.image_shape

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        classes = F.one_hot(labels, len(self.class_names)).to(noise)
        centre = centres_of(self.denoiser.centres, classes)
        levels = noise_levels(self.steps)
        x, before, step_before = self.denoiser.law.drawn(noise, levels[0], classes), None, 0.0
        for sigma, following in zip(levels, [*levels[1:], 0.0], strict=True):
            clean = self.denoised(x, sigma, classes)
            if following == 0:
                return (clean + centre).add(1).div(2).clamp(0, 1)
            step = math.log(sigma / following)
            guess = clean
            if before is not None:
                guess = clean + step / (2 * step_before) * (clean - before)
            x = following / sigma * x + (1 - following / sigma) * guess
            before, step_before = clean, step
        raise AssertionError("the last step returns")

    def traceable(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return `forward`, all of whose steps are traced one after the other, unless they are too many."""
        if self.steps > MOST_TRACED:
            raise InputError(
                f"the generator calls its network {self.steps} times an image, and each call is written out; "
                f"generators of at most {MOST_TRACED} can be exported"
            )
        return self.forward

    def denoised(self, x: Tensor, sigma: float, classes: Tensor) -> Tensor:
        """Return what images ``[B, C, H, W]`` are without their noise of this standard deviation, all less
        the centres of their one-hot classes ``[B, classes]``.
        """
        centre = centres_of(self.denoiser.centres, classes)
        clean = self._clean(x, sigma, classes)
        if self.guidance:
            unknown = self._clean(x + centre, sigma, torch.zeros_like(classes)) - centre
            clean = clean + self.guidance * (clean - unknown)
        return (clean + centre).clamp(-1, 1) - centre

    def _clean(self, x: Tensor, sigma: float, classes: Tensor) -> Tensor:
        how = preconditioning(torch.tensor(sigma, device=x.device))
        output = self.denoiser(packed(how.scale * x, how.level.expand(x.shape[0], 1), classes))
        return how.kept * x + how.added * output


def noise_levels(steps: int) -> list[float]:
    """Return the standard deviations at which the network is called, from the most noise to the least."""
    if steps == 1:
        return [MOST_NOISE]
    most, least = MOST_NOISE ** (1 / CURVE), LEAST_NOISE ** (1 / CURVE)
    return [(most + step / (steps - 1) * (least - most)) ** CURVE for step in range(steps)]
