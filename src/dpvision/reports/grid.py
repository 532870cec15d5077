"""Many small images as one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dpvision.images.encode import encode_png

GAP = 2  # pixels around every image


def image_grid(pixels: Tensor, columns: int) -> bytes:
    """Return a PNG of images, uint8 ``[N, C, H, W]``, row by row, white where there are none."""
    missing = -len(pixels) % columns
    tiles = F.pad(F.pad(pixels, (0, GAP, 0, GAP), value=255), (0, 0, 0, 0, 0, 0, 0, missing), value=255)
    rows = tiles.unflatten(0, (-1, columns))  # [R, columns, C, H, W]
    page = rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # [C, R·H, columns·W]
    return encode_png(F.pad(page, (GAP, 0, GAP, 0), value=255))
