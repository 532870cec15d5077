"""Textures, 32 pixels, RGB: each class is one of dpvision's random processes."""

from __future__ import annotations

import torch
from torch import Tensor

from dpvision.priors.processes import generate

NAMES = (
    *("dead-leaves-squares", "dead-leaves-mixed", "dead-leaves-textured", "statistical-spectrum"),
    *("statistical-wmm", "statistical-spectrum-colour", "stylegan-random", "stylegan-high-frequency"),
    *("stylegan-oriented", "fractals"),
)
SIDE = 32
AT_A_TIME = 64


def make(labels: Tensor, random: torch.Generator) -> Tensor:
    """Make textures: uint8 ``[N, 32, 32, 3]``."""
    images = torch.empty(len(labels), SIDE, SIDE, 3, dtype=torch.uint8)
    for label, name in enumerate(NAMES):
        for some in (labels == label).nonzero().flatten().split(AT_A_TIME):
            made = generate(name, len(some), SIDE, random)
            images[some] = (255 * made).round().to(torch.uint8).permute(0, 2, 3, 1)
    return images
