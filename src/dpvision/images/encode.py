"""Encode images as the bytes of files."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def encode_png(image: Tensor | NDArray[np.uint8]) -> bytes:
    """Return a PNG of an image, uint8 ``[C, H, W]`` with C 1 or 3."""
    pixels = np.asarray(image).transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG")
    return content.getvalue()
