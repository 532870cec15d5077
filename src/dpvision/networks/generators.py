"""Image generators of DP-MEPF (Harder et al., arXiv 2205.12900, appendix), and one with its classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks.gaussian_images import GaussianImages
from dpvision.networks.image_generator import ImageGenerator
from dpvision.privacy.errors import InputError

SIDES = (8, 16, 32, 64, 128)
NARROWEST, WIDEST = 128, 512
"""Range of the width of a :class:`ResidualGenerator`'s first layers. The paper's are the widest."""


class SmallGenerator(nn.Module):
    """``[B, Z] -> [B, C, 28, 28]``: two layers, then two up-samplings with convolutions.

    449 thousand parameters at Z = 100 and C = 1. As ``published`` there is no ReLU before the first
    up-sampling, and corners stay where they are.
    """

    def __init__(self, in_features: int, channels: int, published: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, 500),
            nn.BatchNorm1d(500),
            nn.ReLU(),
            nn.Linear(500, 784),
            nn.BatchNorm1d(784),
            nn.Identity() if published else nn.ReLU(),
            nn.Unflatten(1, (16, 7, 7)),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=published),
            nn.Conv2d(16, 8, 5, padding=2),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=published),
        )
        self.last = nn.Conv2d(8, channels, 5, padding=2)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(self.layers(z))


class UpBlock(nn.Module):
    """``[B, in, S, S] -> [B, out, 2S, 2S]``: two convolutions after an up-sampling, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.interpolate(F.relu(self.norm1(x)), scale_factor=2))
        out = self.conv2(F.relu(self.norm2(out)))
        return out + F.interpolate(self.shortcut(x), scale_factor=2)


class ResidualGenerator(nn.Module):
    """``[B, Z] -> [B, C, S, S]`` for S = 4·2ⁿ: a linear layer to 4×4, then n :class:`UpBlock`, each with half
    the channels: at a ``width`` of 512, the paper's, 512, 256, 128, 64 for 32 pixels, and 32 for 64.

    As ``published`` weights begin by Xavier's rule, and outputs are twice as large: a sigmoid of them then is
    the published tanh, from 0 to 1.
    """

    def __init__(
        self, in_features: int, channels: int, side: int, width: int, published: bool = False
    ) -> None:
        super().__init__()
        blocks = (side // 4).bit_length() - 1
        widths = [min(width >> 3 << blocks, width) >> n for n in range(blocks + 1)]
        self.project = nn.Linear(in_features, widths[0] * 16)
        self.blocks = nn.Sequential(*map(UpBlock, widths, widths[1:]))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.scale = 2 if published else 1
        if published:
            # There the linear layer is a convolution of 4×4 over one position, and begins as one.
            bound = math.sqrt(6 / (16 * (in_features + widths[0])))
            nn.init.uniform_(self.project.weight, -bound, bound)
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.xavier_uniform_(layer.weight)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).unflatten(1, (-1, 4, 4))
        return self.scale * self.last(F.relu(self.norm(self.blocks(x))))


class Generator(ImageGenerator):
    """Draws images of given classes: a network on the one-hot class beside normal noise.

    Networks are those of the paper: :class:`SmallGenerator` at 28 pixels, else :class:`ResidualGenerator`.
    They give the image, by a sigmoid, or where there is a start, what it differs by from that, by tanh, and
    begin with no difference.

    Args:
        image_shape: (C, H, W); a square of 28 pixels or of 4·2ⁿ, from 8 to 128.
        class_names: the class names in the order of labels; none for images without labels.
        latent_size: the size of the noise.
        network_width: the width of the first layers of a :class:`ResidualGenerator`, a multiple of 128.
        published_network: whether the network is as in the paper's code in all it does.
        start: images to start from, made of the same labels and noise.

    Raises:
        InputError: for another image shape.
    """

    kind = "mean embedding"

    def __init__(
        self,
        image_shape: Sequence[int],
        class_names: Sequence[str],
        latent_size: int,
        network_width: int = WIDEST,
        published_network: bool = False,
        start: GaussianImages | None = None,
    ) -> None:
        check_image_shape(image_shape)
        super().__init__(image_shape, class_names)
        channels, height, _ = self.image_shape
        self.latent_size = latent_size
        in_features = len(self.class_names) + latent_size
        self.network_width, self.published_network = network_width, published_network
        self.network = (
            SmallGenerator(in_features, channels, published_network)
            if height == 28
            else ResidualGenerator(in_features, channels, height, network_width, published_network)
        )
        self.start = start
        if start is not None:
            nn.init.zeros_(self.network.last.weight)
            nn.init.zeros_(cast(Tensor, self.network.last.bias))

    @property
    def config(self) -> dict[str, Any]:
        return {
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "latent_size": self.latent_size,
            "network_width": self.network_width,
            "published_network": self.published_network,
            "start": None if self.start is None else self.start.config,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Generator:
        start = config["start"]
        return cls(**{**config, "start": None if start is None else GaussianImages(**start)})

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return (self.latent_size,)

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.with_start(labels, noise)[0]

    def with_start(self, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images of `forward`, and those in [0, 1] they start from, or None without a start."""
        latent = noise
        if self.class_names:
            latent = torch.cat([F.one_hot(labels, len(self.class_names)).to(noise), noise], dim=1)
        x = self.network(latent)
        if self.start is None:
            return torch.sigmoid(x), None
        start = self.start(labels, noise)
        return (start + x.tanh()).clamp(0, 1), start.clamp(0, 1)


def check_image_shape(image_shape: Sequence[int]) -> None:
    """Raise InputError unless there is a generator of images of shape (C, H, W)."""
    _, height, width = image_shape
    if height != width or height not in (28, *SIDES):
        raise InputError(
            f"a generator makes squares of 28 or {', '.join(map(str, SIDES))} pixels, "
            f"not {width}×{height}; read the images with such a size"
        )
