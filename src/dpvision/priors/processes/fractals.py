"""Fractals of random iterated function systems, the one family that the suite of Baradad et al. lacks.

Networks can learn to see from such images (Kataoka et al., arXiv 2101.08515). A system is a few affine maps
x -> A x + b that shrink the plane; its fractal is the set that the maps together leave as it is. Maps drawn
freely mostly give dust or blobs. Following Anderson and Farrell (arXiv 2110.03091, section 3), their singular
values are drawn so that a weighted sum of them lies in a narrow band, where the shapes are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dpvision.priors.processes.noise import power_law_noise, uniform

FRACTALS_PER_IMAGE = 3
MOST_MAPS = 8
POINTS_PER_PIXEL = 3
CHAINS, STEPS_TO_ARRIVE = 512, 16


class Systems(NamedTuple):
    """S iterated function systems of up to M maps.

    Attributes:
        matrices: ``[S, M, 2, 2]``.
        offsets: ``[S, M, 2]``.
        probabilities: the probabilities of the maps in the chaos game, ``[S, M]``, 0 for those that a system
            does not have.
    """

    matrices: Tensor
    offsets: Tensor
    probabilities: Tensor


def fractals(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw a few coloured fractals, one over the other, on two-coloured 1/f^α noise; as :data:`Generate`."""
    colours = uniform(generator, count, 2, 3, 1, 1)
    mix = power_law_noise(0.5 + 1.5 * uniform(generator, count), size, generator)
    mix = torch.sigmoid(2 * mix)[:, None]  # [count, 1, size, size]
    images = mix * colours[:, 0] + (1 - mix) * colours[:, 1]
    steps = -(-POINTS_PER_PIXEL * size**2 // CHAINS)
    for _ in range(FRACTALS_PER_IMAGE):
        systems = draw_systems(count, generator)
        points, shades = play_chaos_game(systems, CHAINS, steps, generator)
        colour, opacity = rendered(placed(points, generator), shades, size)
        images = opacity * colour + (1 - opacity) * images
    return images.clamp(0, 1)


def draw_systems(count: int, generator: torch.Generator) -> Systems:
    """Draw systems of 2 to 8 maps, each a rotation, a shrinking of the axes, a rotation, perhaps reflections.

    The singular values of the N maps of a system satisfy Σ (σ1 + 2 σ2) ∈ [(5 + N) / 2, (6 + N) / 2].
    """
    device = generator.device
    number = torch.randint(2, MOST_MAPS + 1, (count, 1), generator=generator, device=device)
    present = torch.arange(MOST_MAPS, device=device) < number  # [S, M]
    total = (5 + number + uniform(generator, count, 1)) / 2
    values = _singular_values(present, total, generator)
    left, right = _rotations(generator, count), _rotations(generator, count)
    signs = torch.randint(2, (count, MOST_MAPS, 1, 2), generator=generator, device=device) * 2.0 - 1
    matrices = (left * values[:, :, None, :]) @ right * signs
    offsets = 2 * uniform(generator, count, MOST_MAPS, 2) - 1
    # By area, so that the points spread evenly (Barnsley); a map that flattens its image still gets a few.
    areas = values.prod(dim=-1).clamp_min(1e-3) * present
    return Systems(matrices, offsets, areas / areas.sum(dim=1, keepdim=True))


def _singular_values(present: Tensor, total: Tensor, generator: torch.Generator) -> Tensor:
    """Draw σ1 ≥ σ2 in (0, 1) for maps present ``[S, M]``, Σ (σ1 + 2 σ2) = total ``[S, 1]``: ``[S, M, 2]``.

    Uniform values, raised to the one power per system that makes the sum right, which bisection finds.
    """
    values = uniform(generator, *present.shape, 2).clamp(1e-4, 1 - 1e-4)
    logs = values.sort(dim=-1, descending=True).values.log()
    weights = torch.tensor([1.0, 2.0], device=logs.device) * present[..., None]
    low, high = torch.full_like(total, -12), torch.full_like(total, 12)  # logarithms of the power
    for _ in range(40):
        middle = (low + high) / 2
        sums = (weights * (logs * middle.exp()[..., None]).exp()).sum(dim=(1, 2))[:, None]
        too_large = sums > total  # then a higher power is needed
        low, high = torch.where(too_large, middle, low), torch.where(too_large, high, middle)
    return (logs * low.exp()[..., None]).exp()


def play_chaos_game(
    systems: Systems, chains: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return points of every system's fractal, by applying maps at random to many points at once.

    Returns:
        Coordinates ``[2, S, P]`` of P = steps · chains points per system, and their colours ``[3, S, P]`` in
        [0, 1]: the mean colour of the maps applied, the last counting half, the one before a quarter, ….
    """
    count, maps = systems.probabilities.shape
    first = maps * torch.arange(count, device=generator.device)[:, None]
    colours = uniform(generator, count, maps, 3)
    numbers = torch.cat([systems.matrices.flatten(2), systems.offsets, colours], dim=2)
    numbers = numbers.flatten(0, 1).T.contiguous()  # the 9 numbers of each map: [9, S · M]
    x, y = 2 * uniform(generator, 2, count, chains) - 1
    colour = torch.full((3, count, chains), 0.5, device=generator.device)
    places = torch.empty(2, steps, count, chains, device=generator.device)
    shades = torch.empty(3, steps, count, chains, device=generator.device)
    for step in range(-STEPS_TO_ARRIVE, steps):
        chosen = torch.multinomial(systems.probabilities, chains, replacement=True, generator=generator)
        chosen_numbers = numbers[:, first + chosen]  # [9, S, chains]
        a, b, c, d, e, f = chosen_numbers[:6]
        x, y = a * x + b * y + e, c * x + d * y + f
        colour = (colour + chosen_numbers[6:]) / 2
        if step >= 0:  # by then the start is forgotten
            places[0, step], places[1, step], shades[:, step] = x, y, colour
    return places.transpose(1, 2).flatten(2), shades.transpose(1, 2).flatten(2)


def placed(points: Tensor, generator: torch.Generator) -> Tensor:
    """Scale and move points ``[2, S, P]`` to fill a random square, which may reach out of [0, 1]²."""
    _, count, _ = points.shape
    low, high = points.aminmax(dim=2, keepdim=True)
    extent = (high - low).amax(dim=0).clamp_min(1e-6)
    side = 0.4 + 0.8 * uniform(generator, count, 1)
    centre = 0.2 + 0.6 * uniform(generator, 2, count, 1)
    return (points - (low + high) / 2) * (side / extent) + centre


def rendered(points: Tensor, shades: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Render points in their colours: a picture ``[S, 3, size, size]``, its opacity ``[S, 1, size, size]``.

    A pixel has the mean colour of its points, and an opacity in [0, 1] that grows with their number.
    """
    _, count, _ = points.shape
    padded = size + 2  # a border takes the points outside
    x, y = (points * size).floor().clamp(-1, size).long() + 1
    place = (torch.arange(count, device=points.device)[:, None] * padded + y) * padded + x
    # Whole numbers, whose sum does not depend on the order in which a GPU adds them.
    values = torch.cat([(255 * shades).int(), torch.ones_like(shades[:1], dtype=torch.int32)]).flatten(1)
    sums = values.new_zeros(4, count * padded * padded).index_add_(1, place.flatten(), values)
    sums = sums.view(4, count, padded, padded)[:, :, 1:-1, 1:-1].transpose(0, 1).float()
    number = sums[:, 3:]
    colour = sums[:, :3] / (255 * number.clamp_min(1))
    most = number.amax(dim=(2, 3), keepdim=True).clamp_min(1)
    return colour, (torch.log1p(number) / torch.log1p(most)).sqrt()


def _rotations(generator: torch.Generator, count: int) -> Tensor:
    angle = 2 * torch.pi * uniform(generator, count, MOST_MAPS)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
