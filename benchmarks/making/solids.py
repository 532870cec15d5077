"""Solids, 32 pixels, RGB: of any colour, turned in any way, lit from anywhere, before any background.

Each is known by the distance of a point to its surface, and seen by rays that go on by that distance until
there is none left (sphere tracing; Hart, The Visual Computer 12, 1996).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32
STEPS = 24
AT_A_TIME = 200

Distance = Callable[[Tensor], Tensor]
"""Maps points ``[…, 3]`` to how far they are from the surface, at most: negative within."""


def _box(p: Tensor, *half: float) -> Tensor:
    q = p.abs() - torch.tensor(half)
    return q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0)


def _cross(p: Tensor) -> Tensor:
    bars = (_box(p, 0.8, 0.22, 0.22), _box(p, 0.22, 0.8, 0.22), _box(p, 0.22, 0.22, 0.8))
    return torch.stack(bars).amin(0)


def _cone(p: Tensor) -> Tensor:
    radius, height = p[..., :2].norm(dim=-1), p[..., 2]
    return torch.maximum(0.9 * radius + 0.436 * (height - 0.75), -height - 0.6)


def _torus(p: Tensor) -> Tensor:
    return torch.hypot(p[..., :2].norm(dim=-1) - 0.6, p[..., 2]) - 0.24


def _capsule(p: Tensor) -> Tensor:
    nearest = F.pad(p[..., 2:].clamp(-0.55, 0.55), (2, 0))
    return (p - nearest).norm(dim=-1) - 0.33


def _prism(p: Tensor) -> Tensor:
    sides = torch.maximum(0.866 * p[..., 0].abs() + 0.5 * p[..., 1], -p[..., 1]) - 0.4
    return torch.maximum(sides, p[..., 2].abs() - 0.6)


def _tube(p: Tensor) -> Tensor:
    wall = (p[..., :2].norm(dim=-1) - 0.45).abs() - 0.12
    return torch.maximum(wall, p[..., 2].abs() - 0.5)


SOLIDS: dict[str, Distance] = {
    "ball": lambda p: p.norm(dim=-1) - 0.75,
    "cube": lambda p: _box(p, 0.55, 0.55, 0.55),
    "plate": lambda p: _box(p, 0.75, 0.75, 0.14),
    "cylinder": lambda p: torch.maximum(p[..., :2].norm(dim=-1) - 0.5, p[..., 2].abs() - 0.6),
    "cone": _cone,
    "torus": _torus,
    "capsule": _capsule,
    "prism": _prism,
    "tube": _tube,
    "cross": _cross,
}
NAMES = tuple(SOLIDS)


def make(labels: Tensor, random: torch.Generator) -> Tensor:
    """Make pictures of solids: uint8 ``[N, 32, 32, 3]``."""
    images = torch.empty(len(labels), SIDE, SIDE, 3, dtype=torch.uint8)
    for label, distance in enumerate(SOLIDS.values()):
        for some in (labels == label).nonzero().flatten().split(AT_A_TIME):
            images[some] = _seen(distance, len(some), random)
    return images


def _seen(distance: Distance, count: int, random: torch.Generator) -> Tensor:
    """Look at a solid from ``count`` sides: uint8 ``[count, 32, 32, 3]``."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=random)

    def directions() -> Tensor:
        return F.normalize(torch.randn(count, 1, 3, generator=random), dim=-1)

    turns = torch.linalg.qr(torch.randn(count, 3, 3, generator=random))[0]  # mirror images are as good
    size, shift = uniform(0.75, 1.1, 1, 1), uniform(-0.2, 0.2, 1, 2)
    at = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    plane = torch.stack([x, y], -1).view(1, -1, 2) * 1.15 / size - shift
    points = F.pad(plane, (0, 1), value=-1.6) @ turns
    ahead = torch.tensor([[[0.0, 0.0, 1.0]]]) @ turns
    for _ in range(STEPS):
        points = points + distance(points).clamp(max=0.5)[..., None] * ahead
    hit = distance(points) < 0.02
    normals = F.normalize(_slope(distance, points), dim=-1)
    light = F.normalize(directions() - 1.2 * ahead, dim=-1)  # from the side of who looks
    shade = 0.25 + 0.75 * (normals * light).sum(-1, keepdim=True).clamp(min=0)
    colour, glow = uniform(0.25, 1, 1, 3), uniform(0, 0.5, 1, 1)
    shine = glow * (normals * F.normalize(light - ahead, dim=-1)).sum(-1, keepdim=True).clamp(min=0) ** 20
    slope = (plane * uniform(-0.15, 0.15, 1, 2)).sum(-1, keepdim=True)
    behind = uniform(0.1, 0.9, 1, 3) + slope
    seen = torch.where(hit[..., None], colour * shade + shine, behind).clamp(0, 1)
    return (255 * seen).round().to(torch.uint8).view(count, SIDE, SIDE, 3)


def _slope(distance: Distance, points: Tensor) -> Tensor:
    """Return how the distance grows to each side: ``[…, 3]``."""
    here = distance(points)
    return torch.stack([distance(points + step) - here for step in 1e-3 * torch.eye(3)], -1)
