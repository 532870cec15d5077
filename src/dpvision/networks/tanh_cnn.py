"""The tanh networks of Papernot et al. (arXiv 2007.14191, tables 1 and 2). Bounded activations keep the
gradients small, and with them what clipping loses."""

from __future__ import annotations

from torch import nn

from dpvision.privacy.errors import InputError


class TanhCNN(nn.Sequential):
    """The two-convolution network for MNIST and Fashion-MNIST: 26,010 parameters at 1×28×28 and 10 classes.

    Maps ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``; H and W at least :attr:`SMALLEST_SIDE`.

    Args:
        in_channels, image_size, num_classes: as in :func:`dpvision.networks.build_network`.
        width: channels of the first convolution, 16 in the paper; the second convolution and the hidden layer
            have twice as many.

    Raises:
        InputError: if width is less than 1.
    """

    SMALLEST_SIDE = 14

    def __init__(
        self, in_channels: int, image_size: tuple[int, int], num_classes: int, width: int = 16
    ) -> None:
        _check_width(width)
        rows, columns = (self._final_side(side) for side in image_size)
        super().__init__(
            nn.Conv2d(in_channels, width, 8, stride=2, padding=3),
            nn.Tanh(),
            nn.MaxPool2d(2, stride=1),
            nn.Conv2d(width, 2 * width, 4, stride=2),
            nn.Tanh(),
            nn.MaxPool2d(2, stride=1),
            nn.Flatten(),
            nn.Linear(2 * width * rows * columns, 2 * width),
            nn.Tanh(),
            nn.Linear(2 * width, num_classes),
        )

    @staticmethod
    def _final_side(side: int) -> int:
        pooled = side // 2 - 1
        return (pooled - 4) // 2


class DeepTanhCNN(nn.Sequential):
    """The six-convolution network for CIFAR-10: 550,570 parameters at 3×32×32 and 10 classes.

    Maps ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``; H and W at least :attr:`SMALLEST_SIDE`.

    Args:
        in_channels, image_size, num_classes: as in :func:`dpvision.networks.build_network`.
        width: channels of the first two convolutions, 32 in the paper; the others have two and four times as
            many. Cost goes with its square.

    Raises:
        InputError: if width is less than 1.
    """

    SMALLEST_SIDE = 8

    def __init__(
        self, in_channels: int, image_size: tuple[int, int], num_classes: int, width: int = 32
    ) -> None:
        _check_width(width)
        layers: list[nn.Module] = []
        for channels in (width, 2 * width, 4 * width):
            layers += [
                nn.Conv2d(in_channels, channels, 3, padding=1),
                nn.Tanh(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.Tanh(),
                nn.AvgPool2d(2),
            ]
            in_channels = channels
        rows, columns = (side // 8 for side in image_size)
        super().__init__(
            *layers,
            nn.Flatten(),
            nn.Linear(in_channels * rows * columns, 128),
            nn.Tanh(),
            nn.Linear(128, num_classes),
        )


def _check_width(width: int) -> None:
    if width < 1:
        raise InputError(f"width must be at least 1, not {width}")
