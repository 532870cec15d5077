"""Digits written with a pen, 28 pixels, grey: two or three ways of each, of which no two are alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from making.pen import ink

NAMES = tuple("0123456789")
SIDE = 28
AT_A_TIME = 200

Stroke = tuple[tuple[float, float], ...]

# Of each digit the ways to write it, each of one or several strokes, through points (right, down) of a unit
# square. Strokes that have a point in common keep it.
WAYS: tuple[tuple[tuple[Stroke, ...], ...], ...] = (
    (
        (((0.5, 0.05), (0.2, 0.2), (0.12, 0.5), (0.22, 0.82), (0.5, 0.95), (0.78, 0.82), (0.88, 0.5),
          (0.78, 0.2), (0.5, 0.05)),),
        (((0.6, 0.08), (0.3, 0.15), (0.15, 0.5), (0.3, 0.9), (0.6, 0.9), (0.85, 0.5), (0.7, 0.15),
          (0.45, 0.12)),),
    ),
    (
        (((0.5, 0.05), (0.5, 0.35), (0.5, 0.65), (0.5, 0.95)),),
        (((0.3, 0.25), (0.42, 0.15), (0.52, 0.05)), ((0.52, 0.05), (0.52, 0.5), (0.52, 0.95))),
        (((0.3, 0.25), (0.52, 0.05), (0.52, 0.5), (0.52, 0.95)),
         ((0.28, 0.95), (0.52, 0.95), (0.76, 0.95))),
    ),
    (
        (((0.2, 0.25), (0.4, 0.06), (0.7, 0.1), (0.78, 0.32), (0.55, 0.6), (0.2, 0.92)),
         ((0.2, 0.92), (0.5, 0.9), (0.85, 0.92))),
        (((0.18, 0.2), (0.45, 0.05), (0.75, 0.15), (0.72, 0.4), (0.45, 0.7), (0.22, 0.85), (0.2, 0.95),
          (0.35, 0.8), (0.6, 0.88), (0.88, 0.9)),),
    ),
    (
        (((0.2, 0.12), (0.5, 0.05), (0.75, 0.2), (0.65, 0.4), (0.42, 0.48)),
         ((0.42, 0.48), (0.72, 0.55), (0.8, 0.78), (0.55, 0.95), (0.2, 0.88))),
        (((0.2, 0.06), (0.5, 0.06), (0.78, 0.08)), ((0.78, 0.08), (0.45, 0.42)),
         ((0.45, 0.42), (0.75, 0.55), (0.75, 0.85), (0.45, 0.95), (0.2, 0.85))),
    ),
    (
        (((0.25, 0.08), (0.2, 0.35), (0.18, 0.55)), ((0.18, 0.55), (0.5, 0.52), (0.85, 0.5)),
         ((0.7, 0.08), (0.66, 0.5), (0.62, 0.95))),
        (((0.62, 0.05), (0.4, 0.3), (0.15, 0.62)), ((0.15, 0.62), (0.5, 0.62), (0.88, 0.62)),
         ((0.62, 0.05), (0.62, 0.5), (0.62, 0.95))),
    ),
    (
        (((0.8, 0.06), (0.5, 0.07), (0.28, 0.08)), ((0.28, 0.08), (0.25, 0.25), (0.24, 0.42)),
         ((0.24, 0.42), (0.55, 0.38), (0.78, 0.58), (0.7, 0.85), (0.4, 0.95), (0.18, 0.85))),
        (((0.75, 0.05), (0.45, 0.1), (0.3, 0.3), (0.5, 0.45), (0.72, 0.62), (0.62, 0.88), (0.3, 0.93),
          (0.15, 0.85)),),
    ),
    (
        (((0.7, 0.05), (0.4, 0.2), (0.22, 0.5), (0.22, 0.8), (0.5, 0.95), (0.75, 0.8), (0.7, 0.58),
          (0.45, 0.52), (0.25, 0.68)),),
        (((0.5, 0.05), (0.28, 0.4), (0.25, 0.75), (0.45, 0.93), (0.68, 0.78), (0.55, 0.6), (0.3, 0.7)),),
    ),
    (
        (((0.15, 0.08), (0.5, 0.08), (0.85, 0.08)), ((0.85, 0.08), (0.6, 0.45), (0.4, 0.95))),
        (((0.15, 0.15), (0.2, 0.08), (0.5, 0.1), (0.82, 0.08)), ((0.82, 0.08), (0.62, 0.45), (0.45, 0.95)),
         ((0.35, 0.5), (0.55, 0.48), (0.78, 0.48))),
    ),
    (
        (((0.7, 0.18), (0.45, 0.05), (0.27, 0.22), (0.45, 0.45), (0.7, 0.65), (0.7, 0.88), (0.45, 0.95),
          (0.25, 0.82), (0.35, 0.6), (0.6, 0.4), (0.72, 0.2), (0.6, 0.08)),),
        (((0.5, 0.05), (0.28, 0.15), (0.35, 0.38), (0.5, 0.46), (0.7, 0.36), (0.72, 0.15), (0.5, 0.05)),
         ((0.5, 0.46), (0.25, 0.62), (0.28, 0.88), (0.5, 0.95), (0.75, 0.85), (0.72, 0.6), (0.5, 0.46))),
    ),
    (
        (((0.72, 0.25), (0.5, 0.06), (0.25, 0.2), (0.28, 0.42), (0.5, 0.48), (0.72, 0.3)),
         ((0.72, 0.25), (0.7, 0.6), (0.6, 0.95))),
        (((0.7, 0.15), (0.4, 0.08), (0.25, 0.3), (0.45, 0.48), (0.7, 0.3), (0.72, 0.15)),
         ((0.72, 0.15), (0.72, 0.55), (0.65, 0.8), (0.4, 0.95), (0.25, 0.85))),
    ),
)  # fmt: skip


def make(labels: Tensor, random: torch.Generator) -> Tensor:
    """Write digits: uint8 ``[N, 28, 28]``."""
    images = torch.empty(len(labels), SIDE, SIDE, dtype=torch.uint8)
    ways = torch.rand(len(labels), generator=random)
    for label, of_label in enumerate(WAYS):
        for way, strokes in enumerate(of_label):
            chosen = (labels == label) & ((ways * len(of_label)).long() == way)
            for some in chosen.nonzero().flatten().split(AT_A_TIME):
                images[some] = _written(strokes, len(some), random)
    return images


def _written(strokes: tuple[Stroke, ...], count: int, random: torch.Generator) -> Tensor:
    """Write a digit in one way, ``count`` times: uint8 ``[count, 28, 28]``."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=random)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=random)

    # Each point by itself is a little off, and a smooth shift of the plane bends all strokes alike.
    off = {point: 0.022 * normal(2) for stroke in strokes for point in stroke}
    bend = 0.034 * normal(2, 3, 3)
    lines = []
    for stroke in strokes:
        waves = torch.cos(math.pi * torch.arange(3).view(3, 1, 1) * torch.tensor(stroke).T)  # [3, 2, points]
        shifts = torch.einsum("bcij,ip,jp->bpc", bend, waves[:, 0], waves[:, 1])
        through = torch.tensor(stroke) + torch.stack([off[point] for point in stroke], 1) + shifts
        lines.append(_spline(through, 40 if len(stroke) < 4 else 80))
    x, y = (torch.cat(lines, 1) - 0.5).unbind(-1)
    x = uniform(0.6, 1.05) * x - (0.05 + 0.2 * normal(1)) * y  # narrow and slanted
    y = uniform(0.85, 1.05) * y
    turn = 0.11 * normal(1)
    points = torch.stack([turn.cos() * x - turn.sin() * y, turn.sin() * x + turn.cos() * y], -1)
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    extent = (high - low).amax(-1, keepdim=True).clamp(min=0.3)
    points = (points - (low + high) / 2) * (20 / extent) * uniform(0.88, 1)[:, None]
    points += (SIDE - 1) / 2 - 0.7 * points.mean(1, keepdim=True) + 0.45 * normal(1, 2)
    drawn = ink(points, uniform(0.8, 2.2)[:, 0], SIDE) * uniform(0.85, 1)[:, None]
    return (255 * drawn).round().to(torch.uint8)


def _spline(points: Tensor, count: int) -> Tensor:
    """Lay a curve through points ``[B, P, 2]``: ``[B, count, 2]`` of it (Catmull and Rom, 1974)."""
    first, last = 2 * points[:, :1] - points[:, 1:2], 2 * points[:, -1:] - points[:, -2:-1]
    padded = torch.cat([first, points, last], 1)
    along = torch.linspace(0, points.shape[1] - 1 - 1e-4, count)
    piece = along.long()
    t = (along - piece)[None, :, None]
    a, b, c, d = (padded[:, piece + n] for n in range(4))
    return (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) - a + d) * t**3) / 2
