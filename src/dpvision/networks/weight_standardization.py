"""Weight-standardised convolution (Qiao et al., arXiv 1903.10520), in the form of NF-nets (Brock et al.,
arXiv 2101.08692, section 2) that De et al. use for private training (arXiv 2204.13650)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SMALLEST_VARIANCE = 1e-4


def standardize(weight: Tensor, gain: Tensor | None = None) -> Tensor:
    """Give every output channel's filter zero mean and variance 1/fan_in, then scale it by its gain.

    Args:
        weight: ``[C_out, C_in / groups, kH, kW]``.
        gain: ``[C_out]``, or None for gains of one.

    Returns:
        A tensor of weight's shape, float32 (float64 when an argument is): statistics in half precision
        would be noise. A filter whose variance times fan_in is under 1e-4 is treated as if it were 1e-4.
    """
    return standardized(weight, gain)[0]


def standardized(weight: Tensor, gain: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the result of :func:`standardize`, and ``[C_out, 1, 1, 1]``: 1 / √(fan_in · variance) per
    filter, at most 100.
    """
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
    # weight.var() takes five times as long on a CPU.
    squares = centred.square().sum(dim=(1, 2, 3), keepdim=True)
    scale = squares.clamp(min=SMALLEST_VARIANCE).rsqrt()
    return centred * (scale if gain is None else scale * gain.view(-1, 1, 1, 1)), scale


class WeightStandardizedConv2d(nn.Conv2d):
    """``nn.Conv2d`` whose filters pass through :func:`standardize` on every forward.

    Takes the arguments of ``nn.Conv2d`` and adds one learnable parameter, ``gain`` of shape ``[C_out]``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels))

    def reset_parameters(self) -> None:
        # The gradient of a standardised weight shrinks as the raw weight grows. With variance 1/fan_in the
        # standardisation starts as nearly the identity, so a learning rate means what it means without it.
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the convolution: ``[B, C_in, H, W] -> [B, C_out, H', W']``."""
        weight = standardize(self.weight, self.gain).to(self.weight.dtype)
        if not torch.is_grad_enabled() and input.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)  # else each call would reorder it
        return self._conv_forward(input, weight, self.bias)
