"""What an image looks like in 63 numbers: changed copies have nearly the same ones."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

WAVES = 8
"""Cosine waves along each side, with the constant one. An image of 14 × 14 pixels still carries them."""

SKETCH_SIZE = WAVES**2 - 1

MOST_OF_SKETCHES = 2**28
"""Bytes of sketches that are held in memory, those of two million images. They are asked for seldom."""

FLAT = 2.0
"""Images whose waves have less than this norm, in levels of grey, show nothing that could be recognised."""

_GREY = (19, 38, 7)
"""Weights of red, green and blue in 64ths, as ITU-R 601 has them: 16-bit sums are exact, and fast."""


def sketches_of(images: Tensor) -> Tensor:
    """Compute the sketches of images, uint8 [n, C, H, W]: float16 [n, 63], of norm one, or zero where an
    image is flat.

    They are the lowest cosine coefficients of the grey image on a unit square, so that size, colour and
    compression change them little. Each is weighted by its frequency, for in most pictures the slow waves are
    the greatest and alike. Without the constant, and with norm one, brightness and contrast do not count.
    """
    if images.shape[1] == 3:
        red, green, blue = (
            channel.short() * weight for channel, weight in zip(images.unbind(1), _GREY, strict=True)
        )
        grey = (red + green + blue).float() / 64
    else:
        grey = images[:, 0].float()
    _, height, width = grey.shape
    waves = (_waves(height) @ grey @ _waves(width).T * _weights()).flatten(1)[:, 1:]
    norm = waves.norm(dim=1, keepdim=True)
    return torch.where(norm < FLAT, 0.0, waves / norm.clamp_min(FLAT)).half()


def mirrored(sketches: Tensor) -> Tensor:
    """Return the sketches of the images flipped left to right, from those of the images."""
    return sketches * (1 - 2 * (torch.arange(1, WAVES**2) % WAVES % 2)).to(sketches.dtype)


@lru_cache
def _waves(side: int) -> Tensor:
    """Return the means of cosine waves times pixels of a side as a matrix, float32 [WAVES, side]. Waves that
    are too fast for so few pixels, which would look like slower ones, are zero.
    """
    places = (torch.arange(side) + 0.5) / side
    waves = torch.cos(math.pi * torch.arange(WAVES)[:, None] * places) / side
    waves[side:] = 0
    return waves


@lru_cache
def _weights() -> Tensor:
    frequencies = torch.arange(WAVES, dtype=torch.float32)
    return torch.hypot(frequencies[:, None], frequencies)
