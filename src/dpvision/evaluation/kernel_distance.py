"""The kernel distance between the features of two sets of images."""

from __future__ import annotations

import torch
from torch import Tensor

from dpvision.evaluation.intervals import Figure, mean_interval
from dpvision.evaluation.subsets import check_comparable, random_groups

MOST_AT_A_TIME = 1000
"""The number of images of a subset, as in the paper's code."""

FEWEST_SUBSETS = 10
FEWEST = 2 * FEWEST_SUBSETS


def kernel_distance(synthetic: Tensor, real: Tensor, *, seed: int = 0) -> Figure:
    """Return the squared maximum mean discrepancy by the kernel ``(x·y / D + 1)³`` (Bińkowski et al., arXiv
    1801.01401, section 4), in float64. With features of Inception it is the KID.

    Both sets are divided at random into as many subsets, at least 10, none of more than 1,000 images. The
    figure is the mean of the unbiased estimates from each pair of subsets, so its expectation does not depend
    on their size, and it may lie below 0. As subsets share no image, the estimates are independent, and
    Student's 95 % interval of their mean accounts for which images were drawn. (Subsets that overlap, as in
    the paper's code, have the same expectation, but the spread of their estimates is not the figure's.)

    The cost is O(1,000·(M + N)·D) operations: seconds for 10,000 images and 2,048 features.

    Args:
        synthetic: features ``[M, D]`` of synthetic images; computed on its device.
        real: features ``[N, D]`` of real ones.
        seed: the seed of the division into subsets.

    Raises:
        InputError: the features are not finite or not of one encoder, or of fewer than 20 images, or one set
            is so much larger that subsets of the other would have fewer than two images.
    """
    check_comparable(synthetic, real, FEWEST)
    x, y = synthetic, real.to(synthetic.device)
    subsets = max(FEWEST_SUBSETS, -(-max(len(x), len(y)) // MOST_AT_A_TIME))
    check_comparable(synthetic, real, 2 * subsets)
    generator = torch.Generator().manual_seed(seed)
    pairs = zip(*(random_groups(len(z), subsets, generator) for z in (x, y)), strict=True)
    estimates = [unbiased_discrepancy(x[some].double(), y[others].double()) for some, others in pairs]
    low, high = mean_interval(estimates)
    return Figure(sum(estimates) / subsets, low, high, len(synthetic), len(real))


def unbiased_discrepancy(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate of the squared discrepancy from ``[M, D]`` and ``[N, D]`` (Gretton et al.,
    JMLR 13, 2012, equation 3); M and N at least 2.
    """
    within = sum((_kernel(z, z).sum() - _kernel_of_itself(z)) / (len(z) * (len(z) - 1)) for z in (x, y))
    return float(within - 2 * _kernel(x, y).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_of_itself(x: Tensor) -> Tensor:
    """Return the sum of the diagonal of ``_kernel(x, x)``."""
    return ((x.square().mean(dim=1) + 1) ** 3).sum()
