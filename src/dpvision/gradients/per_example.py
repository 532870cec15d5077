"""One parameter's per-example gradients in one chunk: instantiated, or kept as the two factors they are a
product of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Upper bound, in units of the last place, on the rounding error of a squared norm that is got as a sum whose
# terms can cancel, relative to what the terms come to without cancelling.
CANCELLATION_ERROR = 16


class PerExample(Protocol):
    """The gradients g_1 … g_B of one parameter; g_b is that of example b's mean loss over its views."""

    def squared_norms(self) -> Tensor:
        """``[B]`` float32 or wider: ‖g_b‖²."""

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Σ_b weights[b]·g_b in the parameter's shape. An example of weight 0 adds 0 even where g_b is not
        finite.
        """

    def instantiate(self) -> Tensor:
        """``[B, *parameter.shape]`` float32 or wider."""


def widened(tensor: Tensor) -> Tensor:
    """At least float32: a sum over positions or examples must not be rounded to bfloat16 on the way."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def without_zero_weights(rows: Tensor, weights: Tensor) -> Tensor:
    """``rows`` ``[B, …]`` with zeros for examples of weight 0, since 0 · inf would be NaN; no copy where
    there are none.
    """
    excluded = weights == 0
    if not excluded.any():
        return rows
    return rows.masked_fill(excluded.view(-1, *[1] * (rows.ndim - 1)), 0)


def cancellation_error(bound: Tensor) -> Tensor:
    """To be added to a squared norm whose terms may have cancelled, so that it is never under-reported."""
    return CANCELLATION_ERROR * torch.finfo(bound.dtype).eps * bound


@dataclass
class Instantiated:
    """``values``: ``[B, *parameter.shape]``, float32 or wider. The norm is taken of the very numbers that are
    summed.
    """

    values: Tensor

    def squared_norms(self) -> Tensor:
        return torch.linalg.vector_norm(self._rows(), dim=1).square()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        rows = without_zero_weights(self._rows(), weights)
        total = torch.mv(rows.t(), weights.to(rows.dtype))
        order = self._memory_order()
        shape = [self.values.shape[dim] for dim in order]
        return total.view(shape).permute([order.index(dim) for dim in range(1, self.values.ndim)])

    def _memory_order(self) -> list[int]:
        """The dimensions after the first, outermost in memory first: convolutions hand over channels last."""
        return sorted(range(1, self.values.ndim), key=lambda dim: -self.values.stride()[dim])

    def _rows(self) -> Tensor:
        """``[B, parameter.numel()]`` in memory order, so that no copy is made."""
        return self.values.permute(0, *self._memory_order()).flatten(1)

    def instantiate(self) -> Tensor:
        return self.values


@dataclass
class Factored:
    """Ghost form (Goodfellow, arXiv 1510.01799; Li et al., arXiv 2110.05679, section 4): g_b is never formed.

    x: the layer's input ``[B, …]``; g: its output's gradient ``[B, …]``; both float32 or wider.
    factors: ``(x, g) -> inputs [B, T, D], output gradients [B, T, P]``, of which g_b is the product over T
        positions and views.
    combine: ``(x, g) -> Σ_b g_b`` in the parameter's shape, in one batched operation.
    form: ``(x, g) -> [B, *parameter.shape]``.
    """

    x: Tensor
    g: Tensor
    factors: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    combine: Callable[[Tensor, Tensor], Tensor]
    form: Callable[[Tensor, Tensor], Tensor]

    def squared_norms(self) -> Tensor:
        a, b = self.factors(self.x, self.g)
        bound = a.square().sum(dim=(1, 2)) * b.square().sum(
            dim=(1, 2)
        )  # ‖a‖²‖b‖² ≥ ‖bᵀa‖², and equal where T = 1
        if a.shape[1] == 1:
            return bound
        gram = (torch.bmm(a, a.mT) * torch.bmm(b, b.mT)).sum(dim=(1, 2))
        # The terms of the Gram sum can cancel: its rounding error is relative to the bound, not to the
        # result. Added on top, it keeps a norm from being under-reported, which would let an example exceed
        # the clipping norm.
        return torch.minimum(gram.clamp(min=0) + cancellation_error(bound), bound)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        x, g = without_zero_weights(self.x, weights), without_zero_weights(self.g, weights)
        return self.combine(x, g * weights.to(g.dtype).view(-1, *[1] * (g.ndim - 1)))

    def instantiate(self) -> Tensor:
        return self.form(self.x, self.g)


def ghost_is_cheaper(positions: int, inputs: int, outputs: int) -> bool:
    """Whether T = ``positions`` terms of D = ``inputs`` by P = ``outputs`` factors are better kept as
    factors.

    Ghost: Gram matrices, T²(D + P) multiplications, and then the weighted sum, T·D·P. Instantiated: T·D·P,
    and three passes over D·P numbers in memory (written, normed, summed), each of which takes the time of
    some 30 multiplications.
    """
    return positions**2 * (inputs + outputs) < 3 * 30 * inputs * outputs
