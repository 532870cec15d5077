"""Details of public images, for images that are known in the large alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

AT_A_TIME = 64
"""The number of details that are computed at once."""


def scaled(images: Tensor, size: Sequence[int]) -> Tensor:
    """Bring images ``[B, C, h, w]`` to a size (H, W)."""
    return images if images.shape[2:] == tuple(size) else F.interpolate(images, tuple(size), mode="bilinear")


def details_of(images: Tensor, small_sides: Sequence[int]) -> Tensor:
    """Return what public images ``[M, C, H, W]`` in [0, 1] lose when they are averaged to half of smaller
    sides (h, w): int8 ``[M, C, H, W]``, in units of 1 / 127.
    """
    rows, columns = small_sides
    half = max(1, rows // 2), max(1, columns // 2)
    lost = (
        some - scaled(F.adaptive_avg_pool2d(some, half), some.shape[2:]) for some in images.split(AT_A_TIME)
    )
    return torch.cat([some.mul(127).round().to(torch.int8) for some in lost])


def drawn(details: Tensor, normal: Tensor) -> Tensor:
    """Return one of some details ``[M, C, H, W]`` for each normal number ``[B]``, all equally often: float
    ``[B, C, H, W]``.
    """
    count = len(details)
    chosen = torch.special.ndtr(normal).mul(count).long().clamp(max=count - 1)
    return details[chosen].to(normal) / 127
