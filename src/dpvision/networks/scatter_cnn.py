"""A small convolutional network on wavelet scattering (Tramèr and Boneh, arXiv 2011.11660, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks.scattering import Scattering2d
from dpvision.privacy.errors import InputError

SCALES, ANGLES = 2, 8
NORM_GROUPS = 27
"""The number of normalization groups, as in the paper; divides the 81 channels that every colour has."""


class ScatterCNN(nn.Module):
    """Scattering, normalised per image, then one convolution, tanh, average pooling and a linear layer.

    Only the convolution and the linear layer have parameters: 150,282 at 3×32×32 and 10 classes. The wavelets
    are fixed and public, so that the noise falls on a small network that sees edges and textures from the
    first step.

    Maps ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``; H and W at least :attr:`SMALLEST_SIDE`.

    Args:
        in_channels, image_size, num_classes: as in :func:`dpvision.networks.build_network`.
        width: channels of the convolution.

    Raises:
        InputError: if width is less than 1.
    """

    SMALLEST_SIDE = 8

    def __init__(
        self, in_channels: int, image_size: tuple[int, int], num_classes: int, width: int = 64
    ) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"width must be at least 1, not {width}")
        self.scattering = Scattering2d(image_size, SCALES, ANGLES)
        rows, columns = (side // 2**SCALES // 2 for side in image_size)
        self.trained = nn.Sequential(
            nn.Conv2d(in_channels * self.scattering.paths, width, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(width * rows * columns, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():  # there is nothing to train before the convolution
            features = F.group_norm(self.scattering(x), NORM_GROUPS)
        return self.trained(features)
