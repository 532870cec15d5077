"""Per-example gradients of a weight that enters its layer standardised, without forming them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.gradients import rounding
from dpvision.gradients.per_example import Instantiated, reported
from dpvision.networks.weight_standardization import SMALLEST_VARIANCE, standardized


@dataclass
class PulledBack:
    """The gradients of ``weight`` from those of gain · unit, that the layer uses: unit = standardize(weight)

    The pull-back is the same linear map P for every example. For one output channel of n = fan_in weights,

        P g = gain · scale · (g − mean(g) − unit·(unit·g)),

    the last term only where scale is not at its floor; then unit has norm one and is orthogonal to the
    constants, so that ‖P g‖² = (gain · scale)² (‖g‖² − n·mean(g)² − (unit·g)²). The weighted sum is pulled
    back once, as P Σ_b w_b g_b, in float64.

    *The norm.* P is taken with the unit as computed, of which q = ‖unit‖² is nearly 1 and s = Σ unit nearly
    0; then ‖P g‖² is off from that formula by (1 − q)·(unit·g)² + 2·s·mean(g)·(unit·g), at most (|q − 1| +
    2·|s|/√n)·‖g‖². unit·g, Σ g and s are sums of n terms in float32, off by at most γ_n·√q·‖g‖, γ_n·√n·‖g‖
    and γ_n·√n·√q (u and γ as in `rounding`), which makes less than 8·(n + 2)·u·‖g‖² where n·u < 1/8. All that
    is added. Beyond it no more is reported than P can leave of ‖g‖². What nearly vanishes under P is so
    reported as more than it is, and never as less.

    gradients: ``[B, C_out, C_in, kH, kW]``, those of gain · unit. weight: ``[C_out, C_in, kH, kW]``; gain:
    ``[C_out]``.
    """

    gradients: Tensor
    weight: Tensor
    gain: Tensor

    def __post_init__(self) -> None:
        # [C_out, fan_in], channels last like the gradients in memory
        unit, scale = standardized(self.weight)
        self._unit, scale = self._by_channel(unit), scale.flatten()
        self._factor = (self.gain * scale).double()  # [C_out]
        self._free = scale < SMALLEST_VARIANCE**-0.5
        by_channel = self._by_channel(self.gradients)  # [B, C_out, fan_in]
        self.to_gain = torch.linalg.vecdot(by_channel, self._unit)
        """``[B, C_out]``: unit·g, which is also the gradient of the gain."""

    @staticmethod
    def _by_channel(gradients: Tensor) -> Tensor:
        """Return ``[…, C_out, C_in, kH, kW] -> […, C_out, fan_in]``, as it is in memory."""
        return gradients.movedim(-3, -1).flatten(-3)

    def squared_norms(self) -> Tensor:
        by_channel = self._by_channel(self.gradients)
        count = by_channel.shape[2]
        whole = rounding.squared_norms(by_channel.flatten(0, 1)).view(by_channel.shape[:2])
        along, total = self.to_gain.double(), by_channel.sum(dim=2).double()
        left = whole - total.square() / count - self._free * along.square()
        not_one = (rounding.squared_norms(self._unit) - 1).abs()
        not_zero = self._unit.sum(dim=1).double().abs() / count**0.5
        error = self._free * (not_one + 2 * not_zero)  # [C_out]
        error = error + 4 * (count + 2) * torch.finfo(by_channel.dtype).eps
        return (self._factor.square() * reported(left, error, whole * (1 + error))).sum(dim=1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        return self.pull_back(Instantiated(self.gradients).weighted_sum(weights))

    def instantiate(self) -> Tensor:
        return self.pull_back(self.gradients).to(self.gradients.dtype)

    def pull_back(self, gradients: Tensor) -> Tensor:
        """Apply P to each of ``[…, C_out, C_in, kH, kW]``, in float64."""
        by_channel, unit = self._by_channel(gradients).double(), self._unit.double()
        along = (by_channel * unit).sum(dim=-1, keepdim=True) * self._free.unsqueeze(1)
        pulled = by_channel - by_channel.mean(dim=-1, keepdim=True)
        pulled.addcmul_(along, unit, value=-1).mul_(self._factor.unsqueeze(1))
        return pulled.view(gradients.movedim(-3, -1).shape).movedim(-1, -3)
