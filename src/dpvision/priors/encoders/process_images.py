"""Images of random processes, from which encoders learn what costs no privacy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.priors.encoders.encoder import Shape
from dpvision.priors.processes import SMALLEST_SIZE, image_batches

PROCESSES = ("stylegan-oriented", "dead-leaves-mixed", "fractals", "statistical-spectrum-colour")
"""The processes, of four kinds; the bundled priors learned from the same."""

BATCH = 50

SMALL = 64 * 64  # pixels; images of no more are kept for the next encoder, at most 150 MB of them


def process_images(image_shape: Shape, count: int, seed: int) -> Iterator[Tensor]:
    """Yield ``count`` images of the processes in turn, uint8 ``[B, C, H, W]``, some at a time.

    They are made as squares and cut to the shape, or scaled down to it where it is smaller than processes
    are; grey is the mean of the colours. They depend on the arguments alone.
    """
    channels, height, width = image_shape  # of a config it is a list
    make = _kept_batch if height * width <= SMALL else _batch
    for number in range(math.ceil(count / BATCH)):
        yield make((channels, height, width), seed, number)[: count - number * BATCH]


def _batch(image_shape: Shape, seed: int, number: int) -> Tensor:
    channels, height, width = image_shape
    side = max(height, width, SMALLEST_SIZE)
    pixels = next(image_batches(PROCESSES, side, seed, "cpu", BATCH, first=number)).float()
    if channels == 1:
        pixels = pixels.mean(dim=1, keepdim=True)
    if min(height, width) < SMALLEST_SIZE:
        pixels = F.interpolate(pixels, (height, width), mode="area")
    else:
        pixels = pixels[:, :, :height, :width]
    return pixels.round().to(torch.uint8)


_kept_batch = lru_cache(maxsize=240)(_batch)
