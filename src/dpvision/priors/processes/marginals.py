"""Marginals imposed on images: any histogram, and the heavy-tailed histograms of wavelet coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dpvision.priors.processes.wavelets import SteerablePyramid

EXPONENTS = (0.4, 0.8)
GREY_LEVELS = 255  # images are in [0, 1], the law of their coefficients in grey levels
LARGEST_COEFFICIENT = 200  # grey levels; without a bound, a few coefficients would take the whole range


@dataclass(frozen=True)
class WaveletMarginals:
    """Wavelet coefficients of density ∝ exp(−|x / 4**scale| ** r) in every band (arXiv 2106.05963, wavelet
    marginal model).

    x is in grey levels, |x| ≤ 200. Each band of each channel has its own exponent r, uniform in [0.4, 0.8].
    The scales are 1, 2, 3 from fine to coarse, and 1 for the high-pass residual. Nothing is asked of the
    low-pass residual.

    Attributes:
        pyramid: splits the images into bands.
        targets: coefficients, ascending, ``[B, 3, bands, n²]`` for each resolution but the last.
    """

    pyramid: SteerablePyramid
    targets: list[Tensor]

    @classmethod
    def draw(cls, count: int, size: int, generator: torch.Generator) -> WaveletMarginals:
        """Draw random exponents for ``count`` images of a side ``size`` that is a multiple of 8."""
        pyramid = SteerablePyramid(size, generator.device)
        targets = []
        for level, filters in enumerate(pyramid.filters[:-1]):
            bands, resolution = filters.shape[:2]
            exponents = torch.empty(count, 3, bands, device=generator.device)
            exponents.uniform_(*EXPONENTS, generator=generator)
            width = 4 ** max(level, 1)
            quantiles = generalized_laplacian_quantiles(exponents, resolution**2, LARGEST_COEFFICIENT / width)
            targets.append(quantiles * width / GREY_LEVELS)
        return cls(pyramid, targets)

    def impose(self, images: Tensor) -> Tensor:
        """Return images ``[B, 3, N, N]`` whose bands were given the marginals.

        Bands overlap, so those of the result have the marginals only nearly; repeating brings them closer.
        """
        *bands, low_pass = self.pyramid.bands(images)
        matched = [
            match_marginals(band.flatten(-2), target).view_as(band)
            for band, target in zip(bands, self.targets, strict=True)
        ]
        return self.pyramid.images([*matched, low_pass])


def match_marginals(values: Tensor, targets: Tensor) -> Tensor:
    """Return the targets in the order of the values: each row keeps its ranks and gets another histogram.

    Args:
        values: ``[..., n]``.
        targets: ``[..., n]``, ascending in each row.
    """
    return torch.empty_like(values).scatter_(-1, argsort(values), targets)


def generalized_laplacian_quantiles(exponents: Tensor, count: int, limit: float) -> Tensor:
    """Return ``count`` (even) ascending equidistant quantiles of the density ∝ exp(−|x|**r) on
    [−limit, limit].

    Args:
        exponents: r, ``[...]`` in [0.4, 0.8].

    Returns:
        ``[..., count]``.
    """
    # |x|**r has the law Gamma(1/r), cut off at limit**r. Its quantiles are tabulated for 33 values of r,
    # between which they are almost linear.
    device = exponents.device
    grid = torch.linspace(*EXPONENTS, 33, device=device)
    t = torch.linspace(0, 1, 1024, device=device) ** 2 * limit ** grid[:, None]
    distribution = torch.special.gammainc(1 / grid[:, None], t)
    half = count // 2
    probabilities = (torch.arange(half, device=device) + 0.5) / half * distribution[:, -1:]
    right = torch.searchsorted(distribution, probabilities).clamp(1, t.shape[1] - 1)
    left = right - 1
    low, high = distribution.gather(1, left), distribution.gather(1, right)
    table = torch.lerp(t.gather(1, left), t.gather(1, right), (probabilities - low) / (high - low))

    position = (exponents - grid[0]) / (grid[1] - grid[0])
    row = position.long().clamp(0, len(grid) - 2)
    powers = torch.lerp(table[row], table[row + 1], (position - row)[..., None])
    magnitudes = powers ** (1 / exponents[..., None])
    return torch.cat([-magnitudes.flip(-1), magnitudes], dim=-1)


def argsort(values: Tensor) -> Tensor:
    """Compute ``values.argsort(-1)`` of float32 rows, several times faster than torch's own on a CPU."""
    if values.device.type != "cpu":
        return values.argsort(-1)
    # NumPy sorts float64 with vector instructions. A float32 leaves the lowest 29 bits of a float64 zero:
    # there each value carries its position along.
    keys = values.double().numpy().view(np.int64)
    keys |= np.arange(values.shape[-1])
    keys.view(np.float64).sort(axis=-1)
    return torch.from_numpy(keys & (2**29 - 1))
