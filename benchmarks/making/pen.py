"""What a pen leaves that goes through given points."""

from __future__ import annotations

import torch
from torch import Tensor


def ink(points: Tensor, widths: Tensor, side: int) -> Tensor:
    """Draw dots close together with a round pen: float ``[B, side, side]``, 0 where there is none, else 1.

    Args:
        points: places (x, y) in pixels, ``[B, P, 2]``, a pixel or less apart along a stroke.
        widths: half the width of each image's pen, in pixels, ``[B]``.
        side: of the images.
    """
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pixels = torch.stack([x, y], -1).view(1, -1, 2).to(points)
    distances = torch.cdist(pixels.expand(len(points), -1, -1), points).amin(2)
    return (widths[:, None] - distances + 0.6).clamp(0, 1).view(-1, side, side)
