"""The wide residual network with BatchNorm and dropout, as it was published (Zagoruyko and Komodakis, arXiv
1605.07146), to learn from images that are released already. `WideResNet` is the one for private training.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from dpvision.networks.small_images import small_image_network


class Block(nn.Module):
    """``[B, in_channels, H, W] -> [B, channels, H / stride, W / stride]``: two 3×3 convolutions, each after
    BatchNorm and ReLU, with dropout before the second, and a 1×1 convolution beside them where the channels
    change, of what the first norm gives.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.activated = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module | None = None
        if in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activated(x)
        return self.branch(activated) + (x if self.shortcut is None else self.shortcut(activated))


def batch_norm_wide_resnet(
    in_channels: int, num_classes: int, depth: int = 40, width: int = 4, dropout: float = 0.3
) -> nn.Sequential:
    """Build WRN-depth-width: ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``.

    Three stages of (depth − 4) / 6 blocks have 16·width, 32·width and 64·width channels. WRN-40-4 has 8.9
    million parameters.
    """
    channels = (16, 16 * width, 32 * width, 64 * width)
    return small_image_network(
        [nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)],
        channels,
        (depth - 4) // 6,
        partial(Block, dropout=dropout),
        [nn.BatchNorm2d(channels[3]), nn.ReLU()],
        num_classes,
    )
