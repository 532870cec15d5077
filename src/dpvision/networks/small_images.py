"""What networks with BatchNorm for small images have in common: three stages, a classifier, first weights.

BatchNorm mixes the examples of a batch, so these are no networks for private training, and `build_network`
does not know them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn


def small_image_network(
    stem: Sequence[nn.Module],
    channels: tuple[int, int, int, int],
    blocks: int,
    block: Callable[[int, int, int], nn.Module],
    last: Sequence[nn.Module],
    num_classes: int,
) -> nn.Sequential:
    """Build a network from ``[B, C, H, W]`` to logits ``[B, num_classes]``, for images of any size.

    Args:
        stem: what makes the first channels.
        channels: of the stem, and of each of three stages, the last two of which halve the sides.
        blocks: the number of blocks of a stage.
        block: makes a block, given the channels before and after it, and its stride.
        last: what follows the last block, before the mean over positions and a linear layer.
        num_classes: the number of logits.

    The first weights of convolutions are those of He et al. (arXiv 1502.01852, section 2.2, backward case).
    """
    stages = nn.Sequential()
    for stage in range(3):
        before, after = channels[stage : stage + 2]
        stages.append(block(before, after, 2 if stage else 1))
        stages.extend(block(after, after, 1) for _ in range(blocks - 1))
    classifier = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[3], num_classes))
    network = nn.Sequential(*stem, stages, *last, *classifier)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def normed_stem(in_channels: int, channels: int) -> tuple[nn.Module, ...]:
    """Build a 3×3 convolution, BatchNorm and ReLU: ``[B, in_channels, H, W] -> [B, channels, H, W]``."""
    return (
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )
