"""Release second moments of short vectors, by class, in one Gaussian mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.privacy.errors import InputError
from dpvision.privacy.mean_embedding import ROUNDING_MARGIN
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.sampling import FullBatch
from dpvision.privacy.triangles import Triangle


@dataclass(frozen=True)
class SecondMoments:
    """Sums of v vᵀ by class, where an image's v is n numbers, shortened to norm one where it is longer.

    Guarantee: one image's presence moves the sums by at most 1, its content by at most `replace_one_ratio`,
    in L2 norm over all numbers that are released, whatever v is; rounding included up to `ROUNDING_MARGIN`,
    which says for how many images, for an image is handled in float64 and alone. So does one unit, of any
    number of images, that adds the mean of what they would add. ``tests/privacy/test_second_moments.py``
    tries to move them further.

    Attributes:
        num_numbers: n.
        num_classes: K, public; 1 without labels.
    """

    num_numbers: int
    num_classes: int

    @property
    def replace_one_ratio(self) -> float:
        """The sensitivity to a replaced image: √2, for ‖v vᵀ − w wᵀ‖² = ‖v‖⁴ + ‖w‖⁴ − 2 (v·w)², and from one
        class to another no scalar product is left at all.
        """
        return math.sqrt(2)

    def mechanism(self, noise_multiplier: float, num_examples: int) -> GaussianSumMechanism:
        """Return the mechanism of the one release of `triangles`, once every image has been added."""
        return GaussianSumMechanism(noise_multiplier, 1.0, FullBatch(num_examples), self.replace_one_ratio)

    def blank(self) -> dict[str, Tensor]:
        """Return zeros of the name and shape of what is released."""
        return {"moments": torch.zeros(self.num_classes, self.num_numbers * (self.num_numbers + 1) // 2)}

    def add(self, sums: Tensor, vectors: Tensor, labels: Tensor | None, shares: Tensor | None = None) -> None:
        """Add images to the sums, in place.

        Args:
            sums: float64 ``[K, n, n]``.
            vectors: float ``[B, n]``.
            labels: int64 ``[B]``, or None where all are of class 0.
            shares: float64 ``[B]``, what each counts, of units their `Units.shares`; by default 1.

        Raises:
            InputError: vectors are not finite.
        """
        v = vectors.to(sums.device, torch.float64)
        norms = torch.linalg.vector_norm(v, dim=1)
        if not torch.isfinite(norms).all():
            raise InputError("the moments of some images are not finite")
        factors = math.sqrt(1 - ROUNDING_MARGIN) / norms.clamp(min=1)
        blocks = torch.zeros(len(v), dtype=torch.int64) if labels is None else labels
        one_hot = F.one_hot(blocks.to(sums.device), self.num_classes).to(torch.float64)
        if shares is not None:
            one_hot *= shares.to(sums.device)[:, None]
        v = v * factors[:, None]
        for block in blocks.unique().tolist():
            of_class = one_hot[:, block] > 0
            some = v[of_class]
            sums[block].addmm_(some.T, some * one_hot[of_class, block, None])

    def triangles(self, sums: Tensor) -> dict[str, Tensor]:
        """Return what is released of sums ``[K, n, n]``: their :class:`Triangle`, which has their norm."""
        return {"moments": Triangle.of(self.num_numbers, sums.device).pack(sums)}

    def matrices(self, released: Mapping[str, Tensor]) -> Tensor:
        """Return the sums ``[K, n, n]``, float64, of what was released of them."""
        return Triangle.of(self.num_numbers).unpack(released["moments"].double())
