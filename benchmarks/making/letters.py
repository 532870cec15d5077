"""Printed letters, 28 pixels, grey: each class is one, large or small, thick or thin, turned and sheared.

They are of the one typeface that comes with Pillow, so that they are the same on every machine.
"""

from __future__ import annotations

import string
from functools import cache

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

NAMES = tuple(string.ascii_uppercase)
SIDE = 28
FINE = 112  # pixels a side of what letters are taken from
THICKNESSES = 3


def make(labels: Tensor, random: torch.Generator) -> Tensor:
    """Print letters: uint8 ``[N, 28, 28]``."""
    glyphs = _glyphs()
    images = torch.empty(len(labels), SIDE, SIDE, dtype=torch.uint8)
    for some in torch.arange(len(labels)).split(500):
        case = torch.randint(0, 2, (len(some),), generator=random)
        thickness = torch.randint(0, THICKNESSES, (len(some),), generator=random)
        images[some] = _set(glyphs[labels[some], case, thickness], random)
    return images


def _set(glyphs: Tensor, random: torch.Generator) -> Tensor:
    """Put glyphs ``[B, FINE, FINE]`` in [0, 1] at random: uint8 ``[B, 28, 28]``."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(glyphs), generator=random)

    turn, shear = uniform(-0.3, 0.3), uniform(-0.25, 0.25)
    width, height = uniform(0.8, 1.25), uniform(0.9, 1.25)
    rows = [
        torch.stack([turn.cos() * width, (shear - turn.sin()) * width, uniform(-0.2, 0.2)], 1),
        torch.stack([turn.sin() * height, turn.cos() * height, uniform(-0.2, 0.2)], 1),
    ]
    size = [len(glyphs), 1, 2 * SIDE, 2 * SIDE]
    placed = F.grid_sample(
        glyphs[:, None], F.affine_grid(torch.stack(rows, 1), size, align_corners=False), align_corners=False
    )
    ink = F.avg_pool2d(placed, 2)[:, 0] * uniform(0.7, 1).view(-1, 1, 1)
    return (255 * ink).round().to(torch.uint8)


@cache
def _glyphs() -> Tensor:
    """Return all letters, by class, case and thickness: float ``[26, 2, THICKNESSES, FINE, FINE]``."""
    font = ImageFont.load_default(76)
    found = torch.empty(len(NAMES), 2, THICKNESSES, FINE, FINE)
    for label, name in enumerate(NAMES):
        for case, letter in enumerate((name, name.lower())):
            for thickness in range(THICKNESSES):
                page = Image.new("L", (FINE, FINE))
                middle = (FINE / 2, FINE / 2)
                pen = ImageDraw.Draw(page)
                pen.text(middle, letter, fill=255, font=font, anchor="mm", stroke_width=2 * thickness)
                pixels = torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8)
                found[label, case, thickness] = pixels.view(FINE, FINE) / 255
    return found
