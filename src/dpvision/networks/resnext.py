"""ResNeXt for small images (Xie et al., arXiv 1611.05431, section 5.3)."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks.small_images import normed_stem, small_image_network

EXPANSION = 4
"""How many times as many channels a block has as a group of its convolution."""


class Bottleneck(nn.Module):
    """``[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]``: convolutions of 1×1, 3×3 in groups
    and 1×1, and a 1×1 convolution beside them where the channels change.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = groups * channels // EXPANSION
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Sequential()  # nothing
        if in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def resnext29(in_channels: int, num_classes: int, groups: int = 8) -> nn.Sequential:
    """Build ResNeXt-29, 8×64d: ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``.

    Three stages of three blocks have 256, 512 and 1,024 channels, and convolutions in 8 groups of 64, 128 and
    256. It has 34.4 million parameters.
    """
    channels = (64, 64 * EXPANSION, 128 * EXPANSION, 256 * EXPANSION)
    block = partial(Bottleneck, groups=groups)
    return small_image_network(normed_stem(in_channels, 64), channels, 3, block, (), num_classes)
