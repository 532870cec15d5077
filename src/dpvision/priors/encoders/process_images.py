"""Images of random processes, from which encoders and denoisers learn what costs no privacy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
    """Yield ``count`` images of the processes in turn, uint8 ``[B, C, H, W]``, some at a time. They depend on
    the arguments alone.
    """
    channels, height, width = image_shape  # of a config it is a list
    make = _kept_batch if height * width <= SMALL else _batch
    for number in range(math.ceil(count / BATCH)):
        yield make((channels, height, width), seed, number)[: count - number * BATCH]


def _batch(image_shape: Shape, seed: int, number: int) -> Tensor:
    side = side_of(image_shape)
    squares = next(image_batches(PROCESSES, side, seed, "cpu", BATCH, first=number))
    return cut(squares.float(), image_shape).round().to(torch.uint8)


_kept_batch = lru_cache(maxsize=240)(_batch)


def side_of(image_shape: Sequence[int]) -> int:
    """Return the side in pixels of the squares of which processes make images of a shape (C, H, W)."""
    return max(*image_shape[1:], SMALLEST_SIZE)


def cut(squares: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Make images of a shape (C, H, W) of a process's squares, floating point ``[B, 3, S, S]``.

    They are cut to the shape, or scaled down to it where it is smaller than processes are; grey is the mean
    of the colours.
    """
    channels, height, width = image_shape
    images = squares.mean(dim=1, keepdim=True) if channels == 1 else squares
    if min(height, width) < SMALLEST_SIZE:
        return F.interpolate(images, (height, width), mode="area")
    return images[:, :, :height, :width]
