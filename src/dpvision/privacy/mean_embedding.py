"""Release mean embeddings of features, by class, for DP-MEPF (Harder et al., arXiv 2205.12900, section 3).

An image with features e and label y becomes [φ1; c·φ2; b] in the block of its class and zero in all others,

    φ1 = e / ‖e‖,    φ2 = e² / ‖e²‖ (squares entry by entry),    or zero where e is zero,

and the sum of that over all images is one release of the Gaussian mechanism. Its entries of the third kind
are the sizes of the classes times b, so that nothing about the classes leaves outside of that release. The
paper normalises by exact class sizes; the sums are here divided by the noisy ones afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.privacy.errors import InputError
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.sampling import FullBatch
from dpvision.privacy.values import check_weight

ROUNDING_MARGIN = 1e-5
"""φ1 and φ2 are shorter than one by this share: no rounding error may make up for it.

The errors of one image are below 1e-10, for it is handled in float64. Those of the sum depend on all images,
so that one more or less can change them everywhere. Of N images, B at a time, each goes through N / B + B
additions or so, and the errors with and without one image are together below 2·(N / B + B)·N·2⁻⁵³ in norm:
1e-8 for 50,000 images and 4e-6 for a million, 55 at a time. That is a proof for N up to 210,000·√B, where B
is 1 at ten million features; sums that come near it are not known. Blocks summed in float32 could be off by
more.
"""

CACHED_NUMBERS = 1 << 17
"""The number of features that are made float64 at a time on a CPU: 1 MiB, which stays in its cache."""


@dataclass(frozen=True)
class MeanEmbedding:
    """Sums of normalised features by class, and how far one image can move them.

    Guarantee: one image's presence moves the sums by at most `sensitivity`, its content by at most
    `replace_one_ratio` times that, in L2 norm over all of them, whatever its features are; rounding included
    up to `ROUNDING_MARGIN`, which says for how many images. So does one unit, of any number of images, that
    adds the mean of what they would add: a mean is no longer than the longest, and two means are no further
    apart than the furthest of what any two images add, for norms are convex.
    ``tests/privacy/test_mean_embedding.py`` tries to move them further.

    Attributes:
        num_features: D.
        num_classes: K, public. None for images without labels: one block, and no counts, for the number of
            images is public.
        second_moment_weight: c, from 0.001 to 1000, or 0: there is no φ2.
        count_weight: b, from 0.001 to 1000; unused without labels.

    Raises:
        InputError: a value is out of range.
    """

    num_features: int
    num_classes: int | None
    second_moment_weight: float
    count_weight: float

    def __post_init__(self) -> None:
        if self.second_moment_weight:
            check_weight(self.second_moment_weight, "second_moment_weight", "0, or ")
        check_weight(self.count_weight, "count_weight")

    @property
    def _count_weight(self) -> float:
        return 0.0 if self.num_classes is None else self.count_weight

    @property
    def sensitivity(self) -> float:
        """The L2 norm √(1 + c² + b²) of what an image adds when it joins, or takes away when it leaves."""
        return math.sqrt(1 + self.second_moment_weight**2 + self._count_weight**2)

    @property
    def replace_one_ratio(self) -> float:
        """The sensitivity to a replaced image, √(2c² + max(4, 2 + 2b²)), divided by `sensitivity`.

        Within a class φ1 turns around at most, ‖φ1 − φ1′‖² ≤ 4, φ2 has no negative entry, so that
        ‖φ2 − φ2′‖² ≤ 2, and the counts stay. From one class to another all of the image's block goes and all
        of the other comes: 2·(1 + c² + b²).
        """
        c, b = self.second_moment_weight, self._count_weight
        return math.sqrt(2 * c**2 + max(4, 2 + 2 * b**2)) / self.sensitivity

    def mechanism(self, noise_multiplier: float, num_examples: int) -> GaussianSumMechanism:
        """Return the mechanism of the one release of :meth:`zero`, once every image has been added to it."""
        return GaussianSumMechanism(
            noise_multiplier, self.sensitivity, FullBatch(num_examples), self.replace_one_ratio
        )

    def zero(self) -> dict[str, Tensor]:
        """Return the sums over no image, float64: "first" ``[K, D]``, "second" ``[K, D]`` where c > 0, and
        "counts" ``[K]`` where there are labels.
        """
        blocks = 1 if self.num_classes is None else self.num_classes
        sums = {"first": torch.zeros(blocks, self.num_features, dtype=torch.float64)}
        if self.second_moment_weight:
            sums["second"] = torch.zeros_like(sums["first"])
        if self.num_classes is not None:
            sums["counts"] = torch.zeros(blocks, dtype=torch.float64)
        return sums

    def add(
        self,
        sums: Mapping[str, Tensor],
        features: Tensor,
        labels: Tensor | None,
        shares: Tensor | None = None,
    ) -> None:
        """Add images to the sums, in place.

        Args:
            sums: what `zero` made, on any device.
            features: float ``[B, D]``, read as float32.
            labels: int64 ``[B]``, or None where `num_classes` is.
            shares: float64 ``[B]``, what each counts, of units their `Units.shares`; by default 1.

        Raises:
            InputError: features are not finite.
        """
        device = sums["first"].device
        features = features.to(device, torch.float32)
        squared_norms = self._squared_norms(features)
        if not torch.isfinite(squared_norms["first"]).all():
            raise InputError(
                "the encoder gave features that are not finite for some images; choose another encoder, or "
                "other layers of it"
            )
        blocks = torch.zeros(len(features), dtype=torch.int64) if labels is None else labels
        one_hot = F.one_hot(blocks.to(device), len(sums["first"])).to(torch.float64)  # [B, K]
        if shares is not None:
            one_hot *= shares.to(device)[:, None]
        lengths = {"first": 1 - ROUNDING_MARGIN, "second": (1 - ROUNDING_MARGIN) * self.second_moment_weight}
        # What an image's powers are multiplied by on their way into each class's sum, [K, B].
        factors = {
            name: one_hot.T * torch.where(squares > 0, lengths[name] * squares.rsqrt(), 0)
            for name, squares in squared_norms.items()
        }
        for name, columns, power in self._powers(features):
            sums[name][:, columns].addmm_(factors[name], power)
        if "counts" in sums:
            sums["counts"] += self.count_weight * one_hot.sum(dim=0)

    def _squared_norms(self, features: Tensor) -> dict[str, Tensor]:
        """Compute ‖e‖² and, where c > 0, ‖e²‖² of features e: float64 ``[B]``."""
        squares: dict[str, Tensor] = {}
        for name, _, power in self._powers(features):
            squares[name] = squares.get(name, 0) + torch.linalg.vector_norm(power, dim=1).square()
        return squares

    def _powers(self, features: Tensor) -> Iterator[tuple[str, slice, Tensor]]:
        """Yield features e as "first" and, where c > 0, e² as "second": float64, some columns at a time.

        With all columns at once a CPU would wait for memory. A step overwrites what the one before gave.
        No fourth power of a float32 overflows or vanishes in float64.
        """
        on_cpu = features.device.type == "cpu"
        step = CACHED_NUMBERS // (len(features) + 1) + 1 if on_cpu else self.num_features
        for start in range(0, self.num_features, step):
            columns = slice(start, start + step)
            power = features[:, columns].double()
            yield "first", columns, power
            if self.second_moment_weight:
                yield "second", columns, power.square_()

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """Compute what each image adds to "first" and "second": φ1 and c·φ2, ``[B, D]``, differentiable."""
        # By the largest entry first: squares then neither overflow nor all vanish.
        largest = features.abs().amax(dim=1, keepdim=True)
        scaled = features / torch.where(largest > 0, largest, 1)
        embedded = {"first": _unit(scaled)}
        if self.second_moment_weight:
            embedded["second"] = self.second_moment_weight * _unit(scaled**2)
        return embedded


def _unit(x: Tensor) -> Tensor:
    """Return rows ``[B, D]`` of norm just below one, or zero. The largest entry of the others is one."""
    return (1 - ROUNDING_MARGIN) * F.normalize(x, dim=1, eps=0.5)
