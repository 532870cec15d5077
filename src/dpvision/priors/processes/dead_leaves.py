"""Dead leaves: random shapes that fall on each other until they hide the ground.

Lee, Mumford and Huang, "Occlusion models for natural images" (2001), as Baradad et al. (arXiv 2106.05963,
section 3) use them. The leaves are drawn from the topmost downwards: what is visible has the same law as if
they had fallen from the bottom upwards for ever (Kendall and Thönnes, "Perfect simulation in stochastic
geometry", 1999), and once no ground shows, the picture is finished.

Lengths are in units of the image's side. A leaf of radius r is inscribed in a circle of radius √2·r, so that
a square has sides of 2r. Its centre is uniform in the image, and r has density ∝ r^-3 on [0.03, 1]: the one
power law that looks alike at every scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dpvision.priors.processes.noise import uniform
from dpvision.priors.processes.statistical import statistical

SMALLEST_RADIUS, LARGEST_RADIUS = 0.03, 1.0

TESTS_PER_ROUND = 2**20  # of a pixel against a leaf; bounds the memory that a round takes
LEAVES_PER_ROUND = 64

TEXTURES = 32  # that the leaves of all images of one call are cut from


class Outlines(NamedTuple):
    """The outlines of n leaves in the unit circle: that circle, cut by the four chords between the corners.

    Attributes:
        normals: the normals of the chords, unit vectors ``[n, 4, 2]``.
        offsets: signed distances of the chords from the centre, ``[n, 4]``. 1 cuts nothing off.
    """

    normals: Tensor
    offsets: Tensor


DrawOutlines = Callable[[int, torch.Generator], Outlines]


def squares(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw squares with sides parallel to the image's, in uniform colours; as :data:`Generate`."""
    return _painted(_visible_leaves(count, size, generator, upright_squares), generator)


def oriented(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw squares turned by uniform angles, in uniform colours; as :data:`Generate`."""
    return _painted(_visible_leaves(count, size, generator, turned_squares), generator)


def mixed(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw discs, squares, turned squares, rectangles, triangles, quadrilaterals; as :data:`Generate`."""
    return _painted(_visible_leaves(count, size, generator, mixed_outlines), generator)


def textured(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw the shapes of :func:`mixed`, each a piece of a statistical texture; as :data:`Generate`."""
    leaves = _visible_leaves(count, size, generator, mixed_outlines)
    textures = statistical(TEXTURES, size, generator, spectrum=True, wavelets=True, colour=True)
    return under_leaves(leaves, textures, generator)


def draw_radii(count: int, generator: torch.Generator) -> Tensor:
    """Draw radii with density ∝ r^-3, by inversion of their distribution function: ``[count]``."""
    smallest, largest = SMALLEST_RADIUS**-2, LARGEST_RADIUS**-2
    return (smallest + (largest - smallest) * uniform(generator, count)) ** -0.5


def upright_squares(count: int, generator: torch.Generator) -> Outlines:
    corners = torch.tensor([1, 3, 5, 7], device=generator.device) * (torch.pi / 4)
    return inscribed_polygons(corners.expand(count, 4))


def turned_squares(count: int, generator: torch.Generator) -> Outlines:
    corners = torch.arange(4, device=generator.device) * (torch.pi / 2)
    return inscribed_polygons(_angles(generator, count, 1) + corners)


def mixed_outlines(count: int, generator: torch.Generator) -> Outlines:
    """Draw the six kinds of leaf with equal probabilities."""
    quarter_turns = torch.arange(4, device=generator.device) * (torch.pi / 2)
    # A rectangle's corners: half its narrow angle to either side of an axis, and the same across the centre.
    narrow = _angles(generator, count, 1) / 8
    turn = _angles(generator, count, 1)
    rectangle = turn + torch.cat([-narrow, narrow, torch.pi - narrow, torch.pi + narrow], dim=1)
    triangle = _angles(generator, count, 3).sort(dim=1).values
    # Its third corner counts twice: the chord of a corner with itself only touches the circle.
    triangle = torch.cat([triangle, triangle[:, 2:]], dim=1)
    quadrilateral = _angles(generator, count, 4).sort(dim=1).values
    upright = (quarter_turns + torch.pi / 4).expand(count, 4)
    turned = turn + quarter_turns
    kinds = torch.stack([upright, upright, turned, rectangle, triangle, quadrilateral])  # [6, count, 4]
    kind = torch.randint(6, (count,), generator=generator, device=generator.device)
    polygons = inscribed_polygons(kinds[kind, torch.arange(count, device=kind.device)])
    return polygons._replace(offsets=polygons.offsets.masked_fill((kind == 0)[:, None], 1.0))  # 0: discs


def _angles(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw angles, uniform in [0, 2π)."""
    return uniform(generator, *shape) * (2 * torch.pi)


def inscribed_polygons(corners: Tensor) -> Outlines:
    """Return polygons by the angles ``[n, 4]`` of their corners on the unit circle, each row increasing."""
    following = torch.cat([corners[:, 1:], corners[:, :1] + 2 * torch.pi], dim=1)
    middle = (corners + following) / 2
    return Outlines(
        normals=torch.stack([middle.cos(), middle.sin()], dim=-1),
        offsets=((following - corners) / 2).cos(),
    )


def _visible_leaves(count: int, size: int, generator: torch.Generator, outlines: DrawOutlines) -> Tensor:
    """Return the leaf on top at every pixel: int64 ``[count, size, size]``, numbered from 0 per image."""
    device = generator.device
    visible = torch.empty(count * size * size, dtype=torch.int64, device=device)
    bare = torch.arange(count * size * size, device=device)  # pixels that no leaf has covered yet: P of them
    fallen = 0
    while len(bare):
        # L leaves per image and round: one while many pixels are bare, more when testing more costs little.
        leaves = min(max(TESTS_PER_ROUND // len(bare), 1), LEAVES_PER_ROUND)
        inside = _inside(bare, count, size, leaves, outlines, generator)  # [P, L]
        covered = inside.any(dim=1)
        topmost = inside.to(torch.uint8).argmax(dim=1)  # the first of several equal ones
        visible[bare[covered]] = fallen + topmost[covered]
        bare = bare[~covered]
        fallen += leaves
    return visible.view(count, size, size)


def _inside(
    pixels: Tensor, count: int, size: int, leaves: int, outlines: DrawOutlines, generator: torch.Generator
) -> Tensor:
    """Find which of some newly drawn leaves of its image cover each pixel: bool ``[P, leaves]``."""
    number = count * leaves
    reach = draw_radii(number, generator) * 2**0.5
    centre = uniform(generator, number, 2)
    normals, offsets = outlines(number, generator)
    image = pixels // (size * size)
    x, y = (pixels % size + 0.5) / size, (pixels // size % size + 0.5) / size

    # Few pixels lie in a leaf's circle, so only those are tested against its chords.
    x_in_leaf = x[:, None] - centre[:, 0].view(count, leaves)[image]
    y_in_leaf = y[:, None] - centre[:, 1].view(count, leaves)[image]
    inside = x_in_leaf**2 + y_in_leaf**2 <= (reach**2).view(count, leaves)[image]
    near = inside.nonzero(as_tuple=True)
    leaf = image[near[0]] * leaves + near[1]  # [Q]
    point = torch.stack([x_in_leaf[near], y_in_leaf[near]], dim=1)
    height = (normals[leaf] @ point[:, :, None])[:, :, 0]  # above the chords' parallels through the centre
    inside[near] = (height <= offsets[leaf] * reach[leaf, None]).all(dim=1)
    return inside


def _painted(leaves: Tensor, generator: torch.Generator) -> Tensor:
    """Paint every leaf in a uniform colour: ``[N, size, size] -> [N, 3, size, size]``."""
    count, size, _ = leaves.shape
    number = int(leaves.max()) + 1
    colours = uniform(generator, count, number, 3)
    of_pixels = colours.gather(1, leaves.view(count, -1, 1).expand(-1, -1, 3))
    return of_pixels.view(count, size, size, 3).permute(0, 3, 1, 2).contiguous()


def under_leaves(leaves: Tensor, textures: Tensor, generator: torch.Generator) -> Tensor:
    """Cover leaves by pieces of textures ``[T, 3, size, size]``: ``[N, size, size] -> [N, 3, size, size]``.

    Which texture, and from where in it, is drawn for every leaf; textures wrap around.
    """
    count, size, _ = leaves.shape
    shape = (count, int(leaves.max()) + 1)
    pixel = torch.arange(size, device=leaves.device)

    def drawn(bound: int) -> Tensor:
        values = torch.randint(bound, shape, generator=generator, device=leaves.device)
        return values.gather(1, leaves.view(count, -1)).view(leaves.shape)

    texture, row, column = drawn(len(textures)), drawn(size), drawn(size)
    pieces = textures[texture, :, (row + pixel[:, None]) % size, (column + pixel) % size]
    return pieces.permute(0, 3, 1, 2).contiguous()
