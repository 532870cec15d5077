from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from dpvision.priors.processes import dead_leaves
from dpvision.priors.processes.dead_leaves import Outlines

SMALLEST, LARGEST = 0.03, 1.0


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def radius_at(quantile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the distribution function of density ∝ r^-3 on [0.03, 1] takes this value."""
    return (SMALLEST**-2 - quantile * (SMALLEST**-2 - LARGEST**-2)) ** -0.5


def contains(outlines: Outlines, points: Tensor) -> Tensor:
    """Which points ``[p, 2]`` lie in which outlines, by the definition of Outlines: ``[n, p]``."""
    heights = torch.einsum("nkd,pd->nkp", outlines.normals, points)
    return (heights <= outlines.offsets[..., None]).all(dim=1) & (points.norm(dim=1) <= 1)


def test_the_radius_law() -> None:
    radii = dead_leaves.draw_radii(50_000, seeded()).double().numpy()

    def distribution(r: NDArray[np.float64]) -> NDArray[np.float64]:
        return (SMALLEST**-2 - r**-2) / (SMALLEST**-2 - LARGEST**-2)

    assert stats.kstest(radii, distribution).pvalue > 0.01
    assert radii.min() >= SMALLEST - 1e-6
    assert radii.max() <= LARGEST + 1e-6


def test_two_pixels_belong_to_one_square_as_often_as_theory_says() -> None:
    """The first leaf that covers either pixel decides: P = P(it covers both) / P(it covers either).

    An image's pixels with the same colour are those of one leaf. For squares of half side a, with centres
    uniform in the image, both probabilities are products of lengths, averaged over the radius law.
    """
    size, count = 24, 200
    images = dead_leaves.squares(count, size, seeded())
    a = radius_at((np.arange(1000) + 0.5) / 1000)[:, None]
    pixel = (np.arange(size) + 0.5) / size

    def centres(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        """The length of the centres in [0, 1] whose squares cover all of [low, high]: [radii, pixels]."""
        return np.clip(np.minimum(low + a, 1) - np.maximum(high - a, 0), 0, None)

    for lag in (1, 4, 10):
        left, right = pixel[:-lag], pixel[lag:]
        both = np.einsum("rx,ry->xy", centres(left, right), centres(pixel, pixel))
        one = np.einsum("rx,ry->xy", centres(left, left) + centres(right, right), centres(pixel, pixel))
        same = (images[..., lag:] == images[..., :-lag]).all(dim=1).double().mean(dim=(1, 2))  # [count]
        error = float(same.std()) / count**0.5
        assert float(same.mean()) == pytest.approx((both / (one - both)).mean(), abs=3 * error)
        assert error < 0.012


def test_colours_are_uniform() -> None:
    images = dead_leaves.squares(100, 16, seeded())
    colours = torch.cat([image.flatten(1).unique(dim=1) for image in images], dim=1)
    assert stats.kstest(colours.flatten().numpy(), "uniform").pvalue > 0.01


def test_polygons_contain_what_lies_on_one_side_of_all_their_edges() -> None:
    angles = (torch.rand(200, 4, generator=seeded()) * 2 * torch.pi).sort(dim=1).values
    points = 2 * torch.rand(500, 2, generator=seeded(1)) - 1
    corners = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, :, None]  # [n, 4, 1, 2], anticlockwise
    edges, to_points = corners.roll(-1, dims=1) - corners, points - corners
    cross = edges[..., 0] * to_points[..., 1] - edges[..., 1] * to_points[..., 0]
    found = contains(dead_leaves.inscribed_polygons(angles), points)
    assert torch.equal(found, (cross >= 0).all(dim=1))


def test_upright_squares_and_turned_squares() -> None:
    points = 2 * torch.rand(1000, 2, generator=seeded()) - 1
    upright = contains(dead_leaves.upright_squares(1, seeded()), points)[0]
    assert torch.equal(upright, (points.abs() <= 0.5**0.5).all(dim=1))
    turned = dead_leaves.turned_squares(2000, seeded())
    torch.testing.assert_close(turned.offsets, torch.full((2000, 4), 0.5**0.5))
    angle = torch.atan2(turned.normals[:, 0, 1], turned.normals[:, 0, 0]) % (torch.pi / 2)
    assert stats.kstest((angle / (torch.pi / 2)).numpy(), "uniform").pvalue > 0.01


def test_mixed_leaves_are_of_six_kinds() -> None:
    normals, offsets = dead_leaves.mixed_outlines(6000, seeded())
    cuts = (offsets < 1 - 1e-6).sum(dim=1)  # a disc is not cut, a triangle three times
    square = ((offsets - 0.5**0.5).abs() < 1e-5).all(dim=1)
    upright = ((normals.abs() - 1).abs() < 1e-5).any(dim=2).all(dim=1)
    parallel = (normals[:, 0] + normals[:, 2]).norm(dim=1) < 1e-4
    kinds = {
        "disc": cuts == 0,
        "upright square": square & upright,
        "turned square": square & ~upright,
        "rectangle": parallel & ~square & (cuts == 4),
        "triangle": cuts == 3,
        "other quadrilateral": (cuts == 4) & ~parallel,
    }
    for name, of_kind in kinds.items():
        assert float(of_kind.float().mean()) == pytest.approx(1 / 6, abs=0.02), name


def test_edges_run_straight_down_where_squares_are_upright() -> None:
    def share_that_goes_on(images: Tensor) -> float:
        """Of the edges between pixels beside each other, those that are there in the next row, too."""
        edge = (images[..., 1:] != images[..., :-1]).any(dim=1)
        return float((edge[:, 1:] & edge[:, :-1]).sum() / edge[:, :-1].sum())

    upright, mixed, turned = (
        share_that_goes_on(draw(12, 128, seeded()))
        for draw in (dead_leaves.squares, dead_leaves.mixed, dead_leaves.oriented)
    )
    assert upright > 0.8
    assert turned < 0.55
    assert turned + 0.03 < mixed < upright - 0.2


def test_textured_leaves_are_pieces_of_textures() -> None:
    size, number = 6, 5
    leaves = torch.tensor([[0] * 12 + [1] * 18 + [2] * 6, [1] * 36]).view(2, size, size)
    indices = torch.meshgrid(*(torch.arange(n) for n in (number, size, size)), indexing="ij")
    textures = torch.stack(indices, dim=1).float()  # every pixel says where in which texture it is
    pieces = dead_leaves.under_leaves(leaves, textures, seeded(3))
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    shifts = set()
    for image, leaf in [(0, 0), (0, 1), (0, 2), (1, 1)]:
        of_leaf = leaves[image] == leaf
        texture, r, c = pieces[image][:, of_leaf].long()
        shift = {
            *zip(
                texture.tolist(),
                ((r - row[of_leaf]) % size).tolist(),
                ((c - column[of_leaf]) % size).tolist(),
                strict=True,
            )
        }
        assert len(shift) == 1, "a leaf is not of one piece"
        shifts |= shift
    assert len(shifts) == 4
