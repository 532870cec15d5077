"""One parameter's per-example gradients in one chunk: instantiated, or kept as the two factors they are a
product of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dpvision.gradients import rounding

SMALLEST_SHARE = 2.0**-24
"""A squared norm is reported as at least this share of what its terms would come to without cancelling.

Where a gradient is a sum whose terms cancel, the weighted sum over examples is off by rounding errors of the
terms, not of the gradient. Clipped by the reported norm, the terms of an example come to at most 2¹²·C, so
with n examples in a batch, in float64 sums of m terms in a row, all these errors are below 2¹²·m·n·2⁻⁵³·C:
for 4,096 examples in chunks with 10,000 positions and views, 1.9·10⁻⁵·C.
"""


class PerExample(Protocol):
    """The gradients g_1 … g_B of one parameter; g_b is that of example b's mean loss over its views.

    Guarantee: Σ_b weights[b]·g_b as `weighted_sum` computes it is off by no more than double-precision
    rounding from a sum of B parts, of which the b-th depends on example b and weights[b] alone, and is at
    most weights[b]·√squared_norms[b] long. tests/gradients/test_rounding.py shows it for each implementation.
    """

    def squared_norms(self) -> Tensor:
        """Return ``[B]`` float64, at least ‖g_b‖², of the numbers that `weighted_sum` adds up."""

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Compute Σ_b weights[b]·g_b, float64, in the parameter's shape, for the first examples, as many as
        there are (float64) weights. An example of weight 0 adds 0 even where g_b is not finite.
        """

    def instantiate(self) -> Tensor:
        """Return the gradients themselves: ``[B, *parameter.shape]`` float32 or wider."""


def widened(tensor: Tensor) -> Tensor:
    """Convert to at least float32: a sum over positions or examples must not be rounded to bfloat16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weighted_rows(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first of ``rows`` ``[B, …]``, and their weights, without those of weight 0, since 0 · inf
    would be NaN; no copy where there are none.
    """
    rows, kept = rows[: len(weights)], weights != 0
    return (rows, weights) if kept.all() else (rows[kept], weights[kept])


def reported(squared_norm: Tensor, error: float | Tensor, bound: Tensor) -> Tensor:
    """Return a squared norm plus the error that cancellation in its sum may have caused.

    ``error`` is relative to ``bound``, the sum if nothing had cancelled. The result is at least
    `SMALLEST_SHARE` of the bound, and at most the bound.
    """
    return torch.maximum(squared_norm + error * bound, SMALLEST_SHARE * bound).minimum(bound)


def equal_parts(number: int, most: int) -> int:
    """Return the largest divisor of ``number`` that is at most ``most``, or 1: where all parts have one
    shape, what is computed for an example does not depend on which part it is in.
    """
    return max(part for part in range(1, max(1, min(number, most)) + 1) if number % part == 0)


@dataclass
class Instantiated:
    """``values``: ``[B, *parameter.shape]``, float32 or wider. The norm is taken of the very numbers that are
    summed.
    """

    values: Tensor

    def squared_norms(self) -> Tensor:
        return rounding.squared_norms(self._rows())

    def weighted_sum(self, weights: Tensor) -> Tensor:
        total = rounding.weighted_sum(*weighted_rows(self._rows(), weights))
        order = self._memory_order()
        shape = [self.values.shape[dim] for dim in order]
        return total.view(shape).permute([order.index(dim) for dim in range(1, self.values.ndim)])

    def _memory_order(self) -> list[int]:
        """Return the dimensions after the first, outermost in memory first: convolutions have
        channels last.
        """
        return sorted(range(1, self.values.ndim), key=lambda dim: -self.values.stride()[dim])

    def _rows(self) -> Tensor:
        """Return ``[B, parameter.numel()]`` in memory order, so that no copy is made."""
        return self.values.permute(0, *self._memory_order()).reshape(len(self.values), -1)

    def instantiate(self) -> Tensor:
        return self.values


@dataclass
class Factored:
    """Ghost form (Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679, section 4): g_b is never formed.

    g_b = Σ_t b_t a_tᵀ over T positions and views, with norm ‖g_b‖² = Σ_st (a_s·a_t)(b_s·b_t), whose terms can
    cancel. In float32 such a sum may be off by thousands of units in the last place of ‖a‖²‖b‖², so all of
    it, and the weighted sum over examples as well, is taken in float64. There the products of float32 numbers
    are exact and the sum is off by at most (D + P + T² + 8)·2⁻⁵³·‖a‖²‖b‖², which is added.

    x: the layer's input ``[B, …]``; g: its output's gradient ``[B, …]``; both float32 or wider.
    factors: ``(x, g) -> inputs a [B, T, D], output gradients b [B, T, P]``.
    shaped: ``[…, P, D] -> […, *parameter.shape]``.
    """

    x: Tensor
    g: Tensor
    factors: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    shaped: Callable[[Tensor], Tensor]

    def squared_norms(self) -> Tensor:
        at_a_time = equal_parts(len(self.x), self._at_a_time())
        parts = zip(self.x.split(at_a_time), self.g.split(at_a_time), strict=True)
        return torch.cat([self.ghost_norms(*self.factors(x, g)) for x, g in parts])

    @staticmethod
    def ghost_norms(a: Tensor, b: Tensor) -> Tensor:
        """Compute squared norms: ``[B, T, D], [B, T, P] -> [B]``."""
        bound = rounding.squared_norms(a.flatten(1)) * rounding.squared_norms(b.flatten(1))
        if a.shape[1] == 1:  # a single product: ‖b aᵀ‖ = ‖a‖‖b‖
            return bound
        a, b = a.double(), b.double()
        gram = (torch.bmm(a, a.mT) * torch.bmm(b, b.mT)).sum(dim=(1, 2))
        error = (a.shape[2] + b.shape[2] + a.shape[1] ** 2 + 8) * 2.0**-53
        return reported(gram, error, bound)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        x, kept = weighted_rows(self.x, weights)
        g, _ = weighted_rows(self.g, weights)
        a, b = self.factors(self.x[:1], self.g[:1])
        total = a.new_zeros(b.shape[2], a.shape[2], dtype=torch.float64)
        at_a_time = self._at_a_time()
        for start in range(0, len(kept), at_a_time):
            some = slice(start, start + at_a_time)
            a, b = (factor.double() for factor in self.factors(x[some], g[some]))
            total.addmm_((b * kept[some].view(-1, 1, 1)).flatten(0, 1).t(), a.flatten(0, 1))
        return self.shaped(total)

    def _at_a_time(self) -> int:
        """Return the number of examples whose factors may be made float64 together."""
        a, b = self.factors(self.x[:1], self.g[:1])
        return max(1, rounding.AT_A_TIME // max(1, a.numel() + b.numel()))

    def instantiate(self) -> Tensor:
        a, b = self.factors(self.x, self.g)
        return self.shaped(torch.bmm(b.mT, a))


def ghost_is_cheaper(positions: int, inputs: int, outputs: int) -> bool:
    """Say whether the gradients of a layer are cheaper kept as factors than as matrices.

    They are sums of T = ``positions`` terms of D = ``inputs`` by P = ``outputs`` factors. Ghost, in float64
    at half the speed: Gram matrices, T²(D + P) multiplications, and the weighted sum, T·D·P. Instantiated:
    T·D·P in float32, and three passes over D·P numbers in memory (written, normed, summed), each of which
    takes the time of some 30 multiplications.
    """
    ghost = 2 * (positions**2 * (inputs + outputs) + positions * inputs * outputs)
    return ghost < (positions + 3 * 30) * inputs * outputs
