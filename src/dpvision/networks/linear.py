"""Logistic regression on pixels."""

from __future__ import annotations

import math

from torch import nn


class LinearClassifier(nn.Sequential):
    """One linear layer on the flattened image: ``[B, C, H, W] -> [B, num_classes]``. It starts from zero."""

    SMALLEST_SIDE = 1

    def __init__(self, in_channels: int, image_size: tuple[int, int], num_classes: int) -> None:
        linear = nn.Linear(in_channels * math.prod(image_size), num_classes)
        # The loss is convex: a random start would be nothing but noise to unlearn.
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        super().__init__(nn.Flatten(), linear)
