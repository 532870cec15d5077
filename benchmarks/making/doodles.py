"""Doodles, 28 pixels, grey: a pen that walks and turns at random, with ten habits of turning."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from making.pen import ink

NAMES = ("meander", "zigzag", "corners", "spiral", "loops", "wave", "ring", "polygon", "dashes", "scribble")
SIDE = 28
POINTS = 120
AT_A_TIME = 200


def make(labels: Tensor, random: torch.Generator) -> Tensor:
    """Draw doodles: uint8 ``[N, 28, 28]``. Each is turned at random and fills its own part of the image."""
    images = torch.empty(len(labels), SIDE, SIDE, dtype=torch.uint8)
    for label, name in enumerate(NAMES):
        for some in (labels == label).nonzero().flatten().split(AT_A_TIME):
            images[some] = _drawn(_Walks(len(some), random).walk(name), random)
    return images


class _Walks:
    """Walks of a pen, ``[count, POINTS, 2]``, in units of their own."""

    def __init__(self, count: int, random: torch.Generator) -> None:
        self.count, self.random = count, random
        self.t = torch.linspace(0, 1, POINTS)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(self.count, *(shape or (1,)), generator=self.random)

    def smooth(self, strength: float) -> Tensor:
        """Return turns that vary slowly, as sums of four waves: radians ``[count, POINTS]``."""
        waves = torch.arange(1, 5).view(1, 4, 1)
        phases, sizes = (
            self.uniform(0, 2 * math.pi, 4, 1),
            torch.randn(self.count, 4, 1, generator=self.random),
        )
        return strength * (sizes / waves * torch.sin(2 * math.pi * waves * self.t / 2 + phases)).sum(1)

    def pieces(self, most: int, least: int) -> Tensor:
        """Return for each point in which of a walk's straight pieces it is: int64 ``[count, POINTS]``."""
        number = torch.randint(least, most + 1, (self.count, 1), generator=self.random)
        return (self.t * number).long().clamp(max=most).minimum(number - 1)

    def walk(self, name: str) -> Tensor:
        heading, steps, drift = self.uniform(0, 2 * math.pi) + self.smooth(0.08), torch.ones(1), 0.0
        if name == "meander":
            heading = heading + self.smooth(2.2)
        elif name == "zigzag":
            piece, angle = self.pieces(8, 4), self.uniform(0.5, 0.75) * math.pi
            heading = heading + angle * (piece % 2)
        elif name == "corners":
            turns = torch.randint(0, 2, (self.count, 7), generator=self.random) * 2 - 1
            heading = heading + math.pi / 2 * turns.cumsum(1).gather(1, self.pieces(7, 5))
        elif name == "spiral":
            steps = 0.15 + self.t
            heading = heading + self.side() * 2 * math.pi * self.uniform(2, 3) * self.t.sqrt()
        elif name == "loops":
            loops = torch.randint(2, 5, (self.count, 1), generator=self.random)
            heading = heading + self.side() * 2 * math.pi * loops * self.t
            drift = 0.3
        elif name == "wave":
            waves, phase = self.uniform(1.5, 3), self.uniform(0, 2 * math.pi)
            heading = heading + self.uniform(0.9, 1.3) * torch.sin(2 * math.pi * waves * self.t + phase)
        elif name == "ring":
            heading = heading + self.side() * 2 * math.pi * self.uniform(0.95, 1.1) * self.t
        elif name == "polygon":
            corners = torch.randint(3, 5, (self.count, 1), generator=self.random)
            heading = heading + 2 * math.pi / corners * (self.t * corners).long().minimum(corners - 1)
        elif name == "scribble":
            piece, angle = self.pieces(14, 9), self.uniform(0.88, 0.94) * math.pi
            heading = heading + angle * (piece % 2)
        elif name == "dashes":
            return self.dashes()
        direction = torch.stack([heading.cos(), heading.sin()], -1) * steps[..., None]
        if drift:
            away = self.uniform(0, 2 * math.pi)
            direction = direction + drift * torch.stack([away.cos(), away.sin()], -1)
        return direction.cumsum(1)

    def side(self) -> Tensor:
        """Return whether each pen turns to the left or to the right: −1 or 1, ``[count, 1]``."""
        return 2.0 * torch.randint(0, 2, (self.count, 1), generator=self.random) - 1

    def dashes(self) -> Tensor:
        """Return straight strokes at random: three of each walk."""
        middle, turn = self.uniform(-0.5, 0.5, 3, 1, 2), self.uniform(0, 2 * math.pi, 3, 1)
        along = torch.linspace(-0.25, 0.25, POINTS // 3)
        strokes = middle + torch.stack([turn.cos() * along, turn.sin() * along], -1)
        return strokes.flatten(1, 2)


def _drawn(walks: Tensor, random: torch.Generator) -> Tensor:
    """Bring walks into the image and draw them: uint8 ``[B, 28, 28]``."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(len(walks), *shape, generator=random)

    low, high = walks.amin(1, keepdim=True), walks.amax(1, keepdim=True)
    extent = (high - low).amax(2, keepdim=True)
    points = (walks - (low + high) / 2) / extent * uniform(0.5, 0.85, 1, 1) + 0.5 + uniform(-0.06, 0.06, 1, 2)
    drawn = ink(points * SIDE - 0.5, uniform(0.7, 1.8), SIDE) * uniform(0.7, 1, 1, 1)
    return (255 * drawn).round().to(torch.uint8)
