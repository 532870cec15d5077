"""Scans, 28 pixels, grey: bodies that lie alike, seen through, with spots in the lungs of three of four."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NAMES = ("clear", "spots")
RATIO = (1, 3)
SIDE = 28
FINER = 4
"""Each pixel is the mean over a square with as many points a side."""
MOST_SPOTS = 3
AT_A_TIME = 500


def make(labels: Tensor, random: torch.Generator) -> Tensor:
    """Make pictures of bodies: uint8 ``[N, 28, 28]``."""
    made = [_seen(some, random) for some in labels.split(AT_A_TIME)]
    return (255 * torch.cat(made)).round().to(torch.uint8)


def _seen(labels: Tensor, random: torch.Generator) -> Tensor:
    """Make pictures of bodies with these labels: ``[n, 28, 28]`` in [0, 1]."""

    def about(mean: float, deviation: float) -> Tensor:
        return mean + deviation * torch.randn(len(labels), 1, 1, generator=random)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(labels), 1, 1, generator=random)

    at = (torch.arange(SIDE * FINER) + 0.5) / (SIDE * FINER) - 0.5
    down, right = torch.meshgrid(at, at, indexing="ij")
    turn, size = about(0, 0.04), about(1, 0.07)
    right, down = right - about(0, 0.03), down - about(0, 0.03)
    across = (right * turn.cos() + down * turn.sin()) / size
    along = (down * turn.cos() - right * turn.sin()) / size
    body = torch.sigmoid(8 * (1 - (across.abs() / 0.44) ** 2.5 - (along / 0.62) ** 4))
    seen = uniform(0, 0.08) + 0.75 * body
    wide, high = about(0.13, 0.015), about(0.3, 0.03)
    for side in (-0.19, 0.19):
        lung = torch.sigmoid(6 * (1 - ((across - side) / wide) ** 2 - ((along + 0.02) / high) ** 2))
        seen = seen - about(0.42, 0.06) * lung
    ribs = torch.sin(2 * math.pi * (11 * along + 4.5 * across.abs()) + uniform(0, 2 * math.pi))
    spine, heart = _blot(across, along, 0, 0, 0.035, 9), _blot(across, along, 0.07, 0.12, 0.1, 0.12)
    seen = seen + body * (0.05 * ribs + 0.12 * spine) + 0.12 * heart
    for number in range(MOST_SPOTS):
        there = (labels.view(-1, 1, 1) == 1) & (number < uniform(1, MOST_SPOTS + 1).floor())
        lung = 0.19 * torch.where(uniform(0, 1) < 0.5, -1, 1)
        width = uniform(0.05, 0.09)
        spot = _blot(across, along, about(0, 0.05) + lung, about(0, 0.12), width, width)
        seen = seen + there * uniform(0.1, 0.25) * spot
    seen = (seen * about(0.9, 0.15) + about(0, 0.05)).clamp(0, 1)
    return seen.unflatten(2, (SIDE, FINER)).unflatten(1, (SIDE, FINER)).mean(dim=(2, 4))


def _blot(
    across: Tensor,
    along: Tensor,
    right: Tensor | float,
    down: Tensor | float,
    wide: Tensor | float,
    high: Tensor | float,
) -> Tensor:
    """Return a blot around a place, of these standard deviations: at most 1."""
    return torch.exp(-(((across - right) / wide) ** 2 + ((along - down) / high) ** 2) / 2)
