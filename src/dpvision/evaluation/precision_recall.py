"""Precision, recall, density and coverage: which images of one set lie among those of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.evaluation.intervals import Figure, mean_interval, proportion_interval
from dpvision.evaluation.pairs import PAIRS_AT_A_TIME, squared_distances
from dpvision.evaluation.subsets import check_comparable
from dpvision.privacy.errors import InputError


@dataclass(frozen=True)
class PrecisionRecall:
    """Four figures about the balls around images that reach to their k-th nearest neighbour of the same set.

    Attributes:
        precision: the fraction of synthetic images in the ball of any real one (Kynkäänniemi et al., arXiv
            1904.06991, section 2).
        recall: the fraction of real images in the ball of any synthetic one.
        density: the number of balls of real images that a synthetic image lies in, over k, on average (Naeem
            et al., arXiv 2002.09797, section 3). It can exceed 1.
        coverage: the fraction of real images with any synthetic one in their ball.
    """

    precision: Figure
    recall: Figure
    density: Figure
    coverage: Figure


def precision_recall(
    synthetic: Tensor, real: Tensor, *, k: int = 5, pairs_at_a_time: int = PAIRS_AT_A_TIME
) -> PrecisionRecall:
    """Return the four figures of two sets of features.

    Balls include their surface. The 95 % intervals take the balls as given and account for which images were
    looked for in them: Clopper and Pearson's for the fractions, Student's for density. For coverage, whose
    images are the balls', this is an approximation. All four depend on how many images there are of each set:
    compare only figures from equally many.

    Every distance is computed once, in blocks: O((M + N)²·D) operations, a minute or two on one core for
    10,000 images of each set and 2,048 features.

    Args:
        synthetic: features ``[M, D]`` of synthetic images; computed on its device.
        real: features ``[N, D]`` of real ones.
        k: the neighbour that a ball reaches to: 5 as Naeem et al. have it; Kynkäänniemi et al. have 3.
        pairs_at_a_time: distances to hold at once; does not change the result.

    Raises:
        InputError: k is less than 1, or the features are not finite or not of one encoder, or not of more
            than k images.
    """
    if k < 1:
        raise InputError(f"k must be at least 1, not {k}; it is the number of the neighbour")
    check_comparable(synthetic, real, k + 1)
    real = real.to(synthetic.device)
    radius_of_synthetic = _radii(synthetic, k, pairs_at_a_time)  # [M]
    radius_of_real = _radii(real, k, pairs_at_a_time)  # [N]

    near_real = torch.zeros(len(synthetic), dtype=torch.int64, device=synthetic.device)
    recalled, covered = 0, 0
    for block, distances in squared_distances(real, synthetic, pairs_at_a_time):
        inside = distances <= radius_of_real[block, None]  # [b, M]
        near_real += inside.sum(dim=0)
        covered += int(inside.any(dim=1).sum())
        recalled += int((distances <= radius_of_synthetic).any(dim=1).sum())

    def fraction(count: int, total: int) -> Figure:
        return Figure(count / total, *proportion_interval(count, total), len(synthetic), len(real))

    density = int(near_real.sum()) / (k * len(synthetic))
    low, high = mean_interval((near_real.double() / k).cpu().numpy())
    low, high = min(low, density), max(high, density)  # of equal numbers, but for their rounding
    return PrecisionRecall(
        precision=fraction(int((near_real > 0).sum()), len(synthetic)),
        recall=fraction(recalled, len(real)),
        density=Figure(density, max(0.0, low), high, len(synthetic), len(real)),
        coverage=fraction(covered, len(real)),
    )


def _radii(features: Tensor, k: int, pairs_at_a_time: int) -> Tensor:
    """Return the squared distance ``[N]`` from each of ``[N, D]`` to its k-th nearest neighbour."""
    # The nearest of all is the image itself.
    return torch.cat(
        [d.kthvalue(k + 1).values for _, d in squared_distances(features, features, pairs_at_a_time)]
    )
