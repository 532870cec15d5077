"""Several encoders of the same images, as one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks.gaussian_images import GaussianImages
from dpvision.priors.encoders.encoder import Encoder, Tell
from dpvision.privacy.errors import InputError


class ConcatenatedEncoder(Encoder):
    """The features of several encoders of the same images, one after the other.

    Those of each part are brought to norm one first (zero where it sees nothing), so that the scale and the
    number of its features do not decide how much it counts.

    Args:
        parts: encoders of the same images.
        part_weights: the norms of their features instead, by default all 1.

    Raises:
        InputError: part_weights are not one for each part, none below 0 and one at least above.
    """

    def __init__(self, parts: Sequence[Encoder], part_weights: Sequence[float] | None = None) -> None:
        outer = ("name", "image_shape", "provenance")
        name = "+".join(part.config["name"] for part in parts)
        part_weights = [1] * len(parts) if part_weights is None else list(part_weights)
        if len(part_weights) != len(parts) or min(part_weights) < 0 or not 0 < sum(part_weights) < math.inf:
            raise InputError(
                f"encoder {name}: part_weights must be {len(parts)} numbers, none below 0 and not all 0, "
                f"not {part_weights}"
            )
        config = {
            "name": name,
            "image_shape": parts[0].config["image_shape"],
            "parts": [{key: part.config[key] for key in part.config if key not in outer} for part in parts],
            "part_weights": part_weights,
            "provenance": {"parts": [part.provenance for part in parts]},
        }
        super().__init__(sum(part.out_features for part in parts), config)
        self.parts = nn.ModuleList(parts)
        self.part_weights = part_weights
        self.images_to_fit = sum(part.images_to_fit for part in parts)
        self.concurrent = all(part.concurrent for part in parts)

    def fit(self, tell: Tell | None = None) -> None:
        """Fit each part."""
        before = 0
        for part in cast(Sequence[Encoder], self.parts):
            part.fit(tell and partial(_tell_of_part, tell, before, self.images_to_fit))
            before += part.images_to_fit

    def forward(self, x: Tensor) -> Tensor:
        weighted = zip(self.part_weights, self.parts, strict=True)
        return torch.cat([weight * F.normalize(part(x), dim=1) for weight, part in weighted], dim=1)

    def mean_directions(self, x: Tensor, groups: int) -> Tensor:
        """Compute mean directions as if every part saw something in every image: all features then have one
        norm.
        """
        weighted = zip(self.part_weights, self.parts, strict=True)
        means = [weight * cast(Encoder, part).mean_directions(x, groups) for weight, part in weighted]
        return torch.cat(means, dim=1) / math.hypot(*self.part_weights)

    def shrunk(self, means: Tensor, noise: Tensor) -> Tensor:
        """Bring the means nearer to what they were, part by part."""
        return torch.cat([part.shrunk(m, noise) for part, m in self._by_part(means)], dim=1)

    def gaussian_images(self, means: Tensor, rank: int) -> GaussianImages | None:
        """Return the Gaussian images of the first part that has any: they do not depend on a part's
        weight.
        """
        found = (part.gaussian_images(m, rank) for part, m in self._by_part(means))
        return next((images for images in found if images is not None), None)

    def _by_part(self, means: Tensor) -> Iterator[tuple[Encoder, Tensor]]:
        parts = [cast(Encoder, part) for part in self.parts]
        return zip(parts, means.split([part.out_features for part in parts], dim=1), strict=True)


def _tell_of_part(tell: Tell, before: int, total: int, done: int, _: int) -> None:
    tell(before + done, total)
