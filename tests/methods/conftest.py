from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dpvision.images import Images


@pytest.fixture
def left_or_right() -> Callable[[int], Images]:
    """So many images that are bright on the left, or on the right, under noise."""

    def make(count: int) -> Images:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(100, (count, 1, 16, 16), generator=generator, dtype=torch.uint8)
        labels = torch.arange(count) % 2
        pixels[labels == 0, :, :, :8] += 100
        pixels[labels == 1, :, :, 8:] += 100
        return Images(pixels, labels, ("left", "right"), "made")

    return make
