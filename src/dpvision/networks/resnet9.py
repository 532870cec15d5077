"""ResNet-9: a small residual network with BatchNorm, to learn from images that are released already."""

from __future__ import annotations

from torch import Tensor, nn


class ResNet9(nn.Module):
    """Eight convolutions, two of them twice in a residual block, and a linear layer.

    This is the shortened network of Page's DAWNBench entry (2018), as it is commonly taught. It is no network
    for private training: BatchNorm mixes the examples of a batch, so :func:`build_network` does not know it.

    Maps ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``; H and W at least :attr:`SMALLEST_SIDE`.

    Args:
        in_channels: C of the images.
        num_classes: the number of logits.
        width: channels of the first convolution; the last has eight times as many. The usual 64 make 6.6
            million parameters.
    """

    SMALLEST_SIDE = 8
    """The smallest side of images, in pixels. Three halvings precede the last block."""

    def __init__(self, in_channels: int, num_classes: int, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(in_channels, width),
            convolution(width, 2 * width),
            nn.MaxPool2d(2),
            ResidualBlock(2 * width),
            convolution(2 * width, 4 * width),
            nn.MaxPool2d(2),
            convolution(4 * width, 8 * width),
            nn.MaxPool2d(2),
            ResidualBlock(8 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class ResidualBlock(nn.Module):
    """x + two convolutions of x: ``[B, C, H, W] -> [B, C, H, W]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(convolution(channels, channels), convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a 3×3 convolution, BatchNorm and ReLU; keeps H and W."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),  # BatchNorm has a bias
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
