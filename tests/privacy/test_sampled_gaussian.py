"""The domination claim for replace-one, and the Rényi divergences, against independent computations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy.integrate import quad

from dpvision.privacy.sampled_gaussian import renyi_divergence


def hockey_stick(means, sigma, q, scale):
    """H_a(P‖Q) in the plane, by the midpoint rule; ``means`` are u and v, and a is ``scale``."""
    side = np.arange(-1 - 7 * sigma, 1 + 7 * sigma, sigma / 20)
    x, y = np.meshgrid(side, side)

    def density(mean):
        return np.exp(-((x - mean[0]) ** 2 + (y - mean[1]) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)

    p, other = ((1 - q) * density((0, 0)) + q * density(mean) for mean in means)
    return np.maximum(p - scale * other, 0).sum() * (sigma / 20) ** 2


@pytest.mark.parametrize(("sigma", "q"), [(0.5, 0.1), (1.0, 0.3), (2.0, 0.9)])
def test_opposite_unit_vectors_are_the_worst_pair(sigma, q):
    generator = np.random.default_rng(0)
    for scale in (0.6, 1.0, 1.5, 4.0):
        worst = hockey_stick([(1, 0), (-1, 0)], sigma, q, scale)
        for _ in range(5):
            angle, length = generator.uniform(0, 2 * np.pi, 2), np.sqrt(generator.uniform(0, 1, 2))
            pair = np.stack([length * np.cos(angle), length * np.sin(angle)], axis=1)
            assert hockey_stick(pair, sigma, q, scale) <= worst + 1e-9
        # On the boundary of the claim: orthogonal, equal, and one of them absent.
        for pair in ([(1, 0), (0, 1)], [(1, 0), (1, 0)], [(1, 0), (0, 0)], [(0, 0), (1, 0)]):
            assert hockey_stick(pair, sigma, q, scale) <= worst + 1e-9


@pytest.mark.parametrize(("relation", "v"), [("replace_one", -1), ("add_or_remove_one", 0)])
@pytest.mark.parametrize(("sigma", "q"), [(0.3, 0.02), (1.0, 0.1), (9.13, 0.08)])
def test_renyi_divergence_equals_adaptive_quadrature(relation, v, sigma, q):
    orders = [1.1, 3.5, 16.0]
    for order, value in zip(orders, renyi_divergence(sigma, q, orders, relation), strict=True):
        borders = np.linspace(-1 - 12 * sigma, 2 * order + 12 * sigma, 60)
        peak = log_renyi_integrand(borders, sigma, q, order, v).max()
        parts = [
            quad(lambda x, *rest: math.exp(log_renyi_integrand(x, *rest)), a, b, (sigma, q, order, v, peak))
            for a, b in pairwise(borders)
        ]
        moment = sum(part for part, _ in parts)
        assert value == pytest.approx((math.log(moment) + peak) / (order - 1), rel=1e-6, abs=1e-11)


def log_renyi_integrand(x, sigma, q, order, v, peak=0.0):
    centre = math.log(1 - q) - x**2 / (2 * sigma**2)
    p, other = (np.logaddexp(centre, math.log(q) - (x - mean) ** 2 / (2 * sigma**2)) for mean in (1, v))
    return order * p + (1 - order) * other - math.log(sigma * math.sqrt(2 * math.pi)) - peak


@pytest.mark.parametrize(("sigma", "q"), [(0.3, 0.02), (1.0, 0.1), (9.13, 0.08), (2.0, 1.0)])
def test_renyi_divergence_equals_dp_accounting_at_whole_orders(sigma, q):
    """Only at those is theirs exact; at others (of version 0.6) it is an upper bound."""
    theirs = RdpAccountant(orders=[2, 3, 16, 63, 512])
    theirs.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)))
    ours = renyi_divergence(sigma, q, theirs.orders, "add_or_remove_one")
    assert ours == pytest.approx(theirs.rdp, rel=1e-9, abs=1e-13)
