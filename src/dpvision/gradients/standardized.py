"""Per-example gradients of a weight that enters its layer standardised, without forming them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.gradients.per_example import Instantiated, cancellation_error
from dpvision.networks.weight_standardization import SMALLEST_VARIANCE, standard_scale, standardize


@dataclass
class PulledBack:
    """The gradients of ``weight`` from those of gain · unit, that the layer uses: unit = standardize(weight)

    The pull-back is the same linear map P for every example. For one output channel of n = fan_in weights,

        P g = gain · scale · (g − mean(g) − unit·(unit·g)),

    the last term only where scale is not at its floor; then unit has norm one and is orthogonal to the
    constants, so that ‖P g‖² = (gain · scale)² (‖g‖² − n·mean(g)² − (unit·g)²). The weighted sum is pulled
    back once, as P Σ_b w_b g_b.

    gradients: ``[B, C_out, C_in, kH, kW]``, those of gain · unit. weight: ``[C_out, C_in, kH, kW]``; gain:
    ``[C_out]``.
    """

    gradients: Tensor
    weight: Tensor
    gain: Tensor

    def __post_init__(self) -> None:
        # [C_out, fan_in], channels last like the gradients in memory
        self._unit = standardize(self.weight).movedim(1, -1).flatten(1)
        scale = standard_scale(self.weight).flatten()
        self._factor = self.gain * scale  # [C_out]
        self._free = scale < SMALLEST_VARIANCE**-0.5
        by_channel = self.gradients.movedim(2, -1).flatten(2).transpose(0, 1)  # [C_out, B, fan_in]
        directions = torch.stack([self._unit, torch.ones_like(self._unit)], dim=2)  # [C_out, fan_in, 2]
        along, total = torch.bmm(by_channel, directions).unbind(dim=2)  # [C_out, B] each
        self.to_gain = along.t()
        """``[B, C_out]``: unit·g, which is also the gradient of the gain."""
        self._total = total.t()

    def squared_norms(self) -> Tensor:
        whole = torch.linalg.vector_norm(self.gradients.movedim(2, -1).flatten(2), dim=2).square()
        left = whole - self._total.square() / self._unit.shape[1] - self._free * self.to_gain.square()
        # What is left of a gradient that nearly vanishes under P is of the order of rounding errors; they are
        # added on top, so that a norm is never under-reported.
        return (self._factor.square() * (left.clamp(min=0) + cancellation_error(whole))).sum(dim=1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self._pull_back(Instantiated(self.gradients).weighted_sum(weights).unsqueeze(0)).squeeze(0)

    def instantiate(self) -> Tensor:
        return self._pull_back(self.gradients)

    def _pull_back(self, gradients: Tensor) -> Tensor:
        """P of each of ``[b, C_out, C_in, kH, kW]``."""
        by_channel = gradients.movedim(2, -1).flatten(2)  # [b, C_out, fan_in]
        along = (by_channel * self._unit).sum(dim=2, keepdim=True) * self._free.unsqueeze(1)
        pulled = by_channel - by_channel.mean(dim=2, keepdim=True) - along * self._unit
        last = gradients.movedim(2, -1).shape
        return (pulled * self._factor.unsqueeze(1)).view(last).movedim(-1, 2)
