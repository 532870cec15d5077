"""The Poisson-sampled Gaussian sum and a group of k examples: the worst pairs, and their Rényi divergences.

Neighbours share all examples but k, which are there in one data set alone, or have other vectors in both.
Each is drawn with probability q. Given which of the *others* were drawn, the outputs are, up to the same
shift,

    P = Σ_S w_S·N(u_S, σ²I)   against   Q = Σ_S w_S·N(v_S, σ²I),   ‖u_S‖, ‖v_S‖ ≤ |S|,

over the sets S of the group that are drawn; their probabilities w_S add up to those of a binomial J over the
S of J examples. v_S = 0 for all S where Q is without the group.

**The worst pairs** are in one dimension: u_S = |S| against 0 and 0 against |S| where examples are added or
removed (Ganesh, arXiv 2401.10294), and u_S = |S| against v_S = −|S| where they are replaced. They dominate
the mechanism, so that their products dominate every adaptive composition.

*Proof.* With Z from N(0, σ²I), hockey-stick divergence is H_a(P‖Q) = E[h(A − a·B)], where h(x) = max(x, 0),

    A = Σ_S w_S·e^{X_S},   X_S = (⟨u_S, Z⟩ − ‖u_S‖²/2)/σ²,   and likewise B, of Y_S and v_S.

The exponents are jointly normal with means minus half their variances. By the integration by parts in
`dpvision.privacy.sampled_gaussian`, E[h(A − a·B)] changes with their covariance matrix Σ by ½·Σᵢⱼ cᵢⱼ·dΣᵢⱼ,
where cᵢⱼ is E[h″·…] ≥ 0 for two exponents of A, a² times such a one for two of B, and −a times such a one for
one of each (h by smooth convex approximation). So it grows with the covariances within A, ⟨u_S, u_T⟩/σ² ≤
|S|·|T|/σ², and within B, and falls with those between, ⟨u_S, v_T⟩/σ² ≥ −|S|·|T|/σ². All bounds are attained
by (|S|, −|S|), and where v = 0, by (|S|, 0), where the other covariances are 0 in any case; likewise where u
= 0. The segment between the two matrices stays positive semi-definite, and moves every entry in its
direction. ∎
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import binom

from dpvision.privacy.budget import NeighboringRelation

_MOST_NUMBERS = 500_000
"""The most numbers of a quadrature. What would take more is bounded as if all were drawn."""

_TAIL = 14.0  # standard deviations; the mass beyond is below 1e-41 of the whole
_SLACK = 1e-12  # what rounding may take, in nats; it is given away


@lru_cache(maxsize=1024)
def renyi_bound_of_group(
    noise_multiplier: float,
    sample_rate: float,
    size: int,
    orders: tuple[float, ...],
    neighboring_relation: NeighboringRelation,
) -> NDArray[np.float64]:
    """Compute the Rényi divergences of the worst pairs, in the worse direction, in nats; rounding included.

    Args:
        noise_multiplier: σ, the noise's standard deviation over the norm bound of one example.
        sample_rate: q in (0, 1).
        size: k, the number of examples of the group.
        orders: α > 1.
        neighboring_relation: whether they are added or removed, or replaced.
    """
    pairs = [(1, 1)] if neighboring_relation == "replace_one" else [(1, 0), (0, 1)]
    found = [
        max(_divergence(noise_multiplier, sample_rate, size, order, *pair) for pair in pairs)
        for order in orders
    ]
    return np.array(found) * (1 + _SLACK) + _SLACK / (np.array(orders) - 1)


def _divergence(sigma: float, q: float, size: int, order: float, above: int, below: int) -> float:
    """Compute the divergence of Σⱼ wⱼ·N(above·j, σ²) from Σⱼ wⱼ·N(−below·j, σ²).

    Both are polynomials in e^{x/σ²} or e^{−x/σ²}, times a Gaussian. Their roots are negative: binomial
    weights see to it, and factors e^{−j²/2σ²} keep it. So the integrand is analytic in a strip of half width
    πσ², as that of one example is, and the same step does. Left of −below·size the ratio of the densities is
    at most one, and the integrand falls as a Gaussian on the right of the place whose tail ends at ``last``.
    """
    step = min(sigma, sigma**2) / 4
    first, last = (
        -below * size - _TAIL * sigma,
        order * above * size + (order - 1) * below * size + _TAIL * sigma,
    )
    if (last - first) / step * (size + 1) > _MOST_NUMBERS:
        return order * ((above + below) * size / sigma) ** 2 / 2  # by joint convexity, of the largest pair
    x = np.arange(first, last, step)
    drawn = np.arange(size + 1)
    log_weights = binom.logpmf(drawn, size, q)

    def log_mixture(mean: int) -> NDArray[np.float64]:
        if mean == 0:
            return -(x**2) / (2 * sigma**2)
        squares = (x[:, None] - mean * drawn) ** 2
        return np.asarray(logsumexp(log_weights - squares / (2 * sigma**2), axis=1))

    log_integral = logsumexp(order * log_mixture(above) + (1 - order) * log_mixture(-below))
    log_moment = float(log_integral) + np.log(step) - np.log(sigma * np.sqrt(2 * np.pi))
    return max(float(log_moment), 0.0) / (order - 1)
