"""SqueezeNet (Iandola et al., arXiv 1602.07360, table 1), without its classifier."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Fire(nn.Module):
    """``[B, in_channels, H, W] -> [B, 2·expanded, H, W]``: a 1×1 convolution to few channels, then one of 1×1
    and one of 3×3 to ``expanded`` channels each, all followed by a ReLU.
    """

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1))


def squeezenet1_0() -> nn.Sequential:
    """Build ``[B, 3, H, W] -> [B, 512, H', W']``, with torchvision's names; H' is about H / 16."""
    features = nn.Sequential(
        nn.Conv2d(3, 96, 7, stride=2),
        nn.ReLU(),
        _max_pool(),
        Fire(96, 16, 64),
        Fire(128, 16, 64),
        Fire(128, 32, 128),
        _max_pool(),
        Fire(256, 32, 128),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        _max_pool(),
        Fire(512, 64, 256),
    )
    return nn.Sequential(OrderedDict(features=features))


def _max_pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
