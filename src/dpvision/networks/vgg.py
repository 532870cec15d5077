"""VGG (Simonyan and Zisserman, arXiv 1409.1556, table 1), without its classifier."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, convolutions


def vgg19() -> nn.Sequential:
    """Build ``[B, 3, H, W] -> [B, 512, H / 32, W / 32]``: configuration E, with torchvision's names.

    Its 16 convolutions keep the size; each of the five stages ends in a max pool that halves it.
    """
    layers: list[nn.Module] = []
    in_channels = 3
    for channels, convolutions in _STAGES:
        for _ in range(convolutions):
            layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
            in_channels = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(OrderedDict(features=nn.Sequential(*layers)))
