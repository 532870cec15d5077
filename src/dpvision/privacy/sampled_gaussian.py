"""The Poisson-sampled Gaussian sum: its worst pair of distributions, and their Rényi divergence.

**The mechanism.** Each example enters the batch independently with probability q; the batch's vectors, each
of norm at most 1, are summed and N(0, σ²I) is added. The neighbours D, D′ share all examples but one, whose
vector is u in D and v in D′; an absent example's is 0. Given which of the *others* were drawn (the same law
in both), the output is, up to the same shift,

    P = (1−q)·N(0, σ²I) + q·N(u, σ²I)   against   Q = (1−q)·N(0, σ²I) + q·N(v, σ²I).

Hockey-stick divergence H_a(P‖Q) = ∫ [dP − a·dQ]₊ is jointly convex: it suffices to bound it for such pairs.

**Add or remove one.** The worst pair is u = 1, v = 0 in one dimension, or its reverse: Zhu, Dong and Wang
(arXiv 2106.08567, Theorem 11). Of the two, (1, 0) has the larger Rényi divergence (Mironov, Talwar and Zhang,
arXiv 1908.10530, Theorem 5).

**Replace one.** For every a ≥ 0 and all ‖u‖, ‖v‖ ≤ 1, H_a(P‖Q) is at most its value in one dimension at
u = 1, v = −1. That pair thus dominates the mechanism, and its products dominate every adaptive composition
(Zhu, Dong and Wang, Theorem 10). It is attained, so the bound is tight.

*Proof.* The pair (1, −1) is symmetric and H_a(P‖Q) = 1 − a + a·H_{1/a}(Q‖P), so let a ≥ 1.
With c = (a−1)(1−q)/q ≥ 0,

    H_a(P‖Q) = q·∫ [dN(u) − a·dN(v) − c·dN(0)]₊ = q·E[φ(a·e^X + c·e^Y)],   φ(b) = max(1−b, 0) convex,

where, under N(u, σ²I), X = log dN(v)/dN(u) and Y = log dN(0)/dN(u) are jointly normal with covariance

    Σ = σ⁻² · [[‖u−v‖², ⟨v−u, −u⟩], [⟨v−u, −u⟩, ‖u‖²]]   and mean −diag(Σ)/2.

For exponents X₁, X₂ with such a mean, weights w₁, w₂ ≥ 0 and B = Σᵢ wᵢe^{Xᵢ}, integration by parts gives

    d E[φ(B)] = ½ · Σᵢⱼ E[φ″(B)·wᵢe^{Xᵢ}·wⱼe^{Xⱼ}] · dΣᵢⱼ ≥ 0   whenever every dΣᵢⱼ ≥ 0

(φ by smooth convex approximation). At u = 1, v = −1 the matrix is σ⁻²·[[4, 2], [2, 1]], which is entrywise
the largest possible: ‖u−v‖² ≤ 4, ⟨v−u, −u⟩ ≤ ‖u−v‖·‖u‖ ≤ 2, ‖u‖² ≤ 1. The segment from Σ to it stays positive
semi-definite and increases in every entry, so the value only grows along it. ∎

dp_accounting's PLD accountant uses exactly these pairs. Its RDP accountant knows no sampled event under
replace-one (and ignores the relation for an unsampled one), and at fractional orders overstates or gives up,
so the Rényi divergence is computed here, for both relations in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import logsumexp

from dpvision.privacy.budget import NeighboringRelation

_MOST_POINTS = 2_000_000
"""The most points of a quadrature: more would take too long for a bound that nobody needs."""

_TAIL = 14.0  # standard deviations; the mass beyond is below 1e-43
# Rounding error of a Rényi divergence in double precision, in nats; it is given away.
_SLACK = 1e-13


def renyi_divergence(
    noise_multiplier: float,
    sample_rate: float,
    orders: Sequence[float],
    neighboring_relation: NeighboringRelation,
) -> np.ndarray:
    """Compute the Rényi divergences of the worst pair: the mechanism's RDP, never below it but for rounding.

    The integrand is analytic, so the trapezoidal rule converges exponentially; a step of a quarter of its
    narrowest feature, min(σ, σ²), leaves an error near machine precision.

    Args:
        noise_multiplier: σ, the noise's standard deviation over the norm bound of one example.
        sample_rate: q in (0, 1].
        orders: α > 1.
        neighboring_relation: the relation whose worst pair it is.

    Returns:
        One divergence in nats per order.
    """
    v = -1.0 if neighboring_relation == "replace_one" else 0.0
    if sample_rate == 1:
        return _unsampled(noise_multiplier, np.asarray(orders, dtype=np.float64), v)
    return np.array([_renyi_divergence(noise_multiplier, sample_rate, order, v) for order in orders])


def _unsampled(sigma: float, order: Any, v: float) -> Any:
    """Compute the divergence of N(1) against N(v)."""
    return order * (1 - v) ** 2 / (2 * sigma**2)


@lru_cache(maxsize=1024)
def renyi_bound(
    noise_multiplier: float,
    sample_rate: float,
    orders: tuple[float, ...],
    neighboring_relation: NeighboringRelation,
) -> np.ndarray:
    """Return `renyi_divergence` plus what rounding may have taken from it."""
    divergences = renyi_divergence(noise_multiplier, sample_rate, orders, neighboring_relation)
    return divergences * (1 + _SLACK) + _SLACK / (np.array(orders) - 1)


def _renyi_divergence(sigma: float, q: float, order: float, v: float) -> float:
    step = min(sigma, sigma**2) / 4
    # P^α·Q^(1−α) is largest somewhere between the means and α + (1−α)·v, the peak for q = 1.
    first, last = -1 - _TAIL * sigma, order + (1 - order) * v + _TAIL * sigma
    if (last - first) / step > _MOST_POINTS:
        return float(_unsampled(sigma, order, v))  # by quasi-convexity sampling only reduces it
    x = np.arange(first, last, step)

    def log_mixture(mean: float) -> np.ndarray:
        return np.logaddexp(
            np.log1p(-q) - x**2 / (2 * sigma**2), np.log(q) - (x - mean) ** 2 / (2 * sigma**2)
        )

    log_integral = logsumexp(order * log_mixture(1.0) + (1 - order) * log_mixture(v))
    log_moment = log_integral + np.log(step) - np.log(sigma * np.sqrt(2 * np.pi))
    return max(float(log_moment), 0.0) / (order - 1)
