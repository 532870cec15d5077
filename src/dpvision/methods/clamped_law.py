"""Find the normal law behind clamped pixels of given mean and covariance (Tobin, 1958, Econometrica 26, for
one number; here for all pixels of an image)."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

ORDERS = 4
"""Hermite polynomials by which the covariance of two clamped numbers is computed from their correlation."""
NEWTON_STEPS = 30
LEAST_SLOPE = 0.3
"""The least that a step of Newton's method takes the covariance to rise with the correlation, in units of
what it does at no correlation: higher orders can bring it near zero.
"""
LEAST_VARIANCE = 1e-6
SIMPLEST = 1e-4
"""What a location or scale costs, against an error of mean or standard deviation: between laws of nearly the
same two, the one nearest to zero.
"""
PIXELS_AT_A_TIME = 256


def clamped_law(mean: Tensor, covariance: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return a law of g such that clamp(g, 0, 1) has nearly this mean and covariance.

    Each pixel's location and scale follow from its mean and variance. The covariance of two clamped numbers
    is Σ aₖ bₖ ρᵏ by their Hermite coefficients a and b (Mehler's formula), up to an order of four, and is
    solved for the correlation ρ. What is no matrix of correlations is made one by leaving out negative
    eigenvalues.

    Args:
        mean: ``[n]``.
        covariance: ``[n, n]``.
        rank: R, the number of the correlations' largest directions that are kept.

    Returns:
        The location ``[n]``, the scale ``[n]`` and a root ``[n, R]`` of the correlations, whose rows are no
        longer than one: g = location + scale·(root·z + what is missing to a variance of 1).
    """
    location, scale, coefficients = _of_pixels(mean, covariance.diagonal())
    products = [a[:, None] * a for a in coefficients]
    correlation = torch.zeros_like(products[0])
    for _ in range(NEWTON_STEPS):
        powers = [correlation**k for k in range(ORDERS + 1)]
        error = torch.stack([p * powers[k + 1] for k, p in enumerate(products)]).sum(dim=0) - covariance
        slope = torch.stack([(k + 1) * p * powers[k] for k, p in enumerate(products)]).sum(dim=0)
        step = error / slope.maximum(LEAST_SLOPE * products[0] + 1e-8)
        correlation = (correlation - step).clamp(-0.999, 0.999)
    correlation[products[0] < 1e-7] = 0  # of pixels that are always black, or always white
    correlation.fill_diagonal_(1)
    values, vectors = torch.linalg.eigh(correlation.double())
    root = (vectors * values.clamp(min=0).sqrt()).float()
    root /= root.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return location, scale, root[:, -rank:]


def _of_pixels(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return for each pixel, ``[n]``, the location and scale of its law and its Hermite coefficients."""
    locations, scales, means, deviations, coefficients = _table()
    wanted = torch.stack([mean.clamp(0, 1), variance.clamp(min=LEAST_VARIANCE).sqrt()], dim=1)
    found = torch.stack([means, deviations], dim=1)
    cost = SIMPLEST * (scales + locations.abs())
    chosen = torch.cat(
        [(torch.cdist(some, found) + cost).argmin(dim=1) for some in wanted.split(PIXELS_AT_A_TIME)]
    )
    return locations[chosen], scales[chosen], [each[chosen] for each in coefficients]


@cache
def _table() -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Return locations, scales, and of clamped numbers with these the means, standard deviations and Hermite
    coefficients of the orders 1 to 4.
    """
    far = torch.logspace(-2, math.log10(6), 60)
    locations = torch.cat([-far.flip(0), torch.linspace(0, 1, 52), 1 + far])
    scales = torch.logspace(math.log10(0.003), math.log10(4), 80)
    g = torch.linspace(-7, 7, 1401)
    weight = torch.exp(-g.square() / 2)
    weight /= weight.sum()
    values = (locations[:, None, None] + scales[:, None] * g).clamp(0, 1).flatten(0, 1)  # [laws, points]
    means = values @ weight
    deviations = (values.square() @ weight - means.square()).clamp(min=0).sqrt()
    hermite = (g, g**2 - 1, g**3 - 3 * g, g**4 - 6 * g**2 + 3)
    coefficients = [values @ (weight * h) / math.sqrt(math.factorial(k)) for k, h in enumerate(hermite, 1)]
    every = torch.cartesian_prod(locations, scales)
    return every[:, 0], every[:, 1], means, deviations, coefficients
