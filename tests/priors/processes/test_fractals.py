from __future__ import annotations

import pytest
import torch

from dpvision.priors.processes.fractals import Systems, draw_systems, placed, play_chaos_game, rendered


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sierpinski(probabilities: list[float]) -> Systems:
    """Three maps that halve the distance to the corners (0, 0), (1, 0) and (0, 1)."""
    return Systems(
        matrices=0.5 * torch.eye(2).expand(1, 3, 2, 2),
        offsets=0.5 * torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]]),
        probabilities=torch.tensor([probabilities]),
    )


def test_singular_values_are_controlled() -> None:
    systems = draw_systems(500, seeded())
    values = torch.linalg.svdvals(systems.matrices)  # [S, M, 2], largest first
    present = systems.probabilities > 0
    number = present.sum(dim=1)
    assert set(number.tolist()) == set(range(2, 9))
    assert values[present].max() < 1, "a map that does not shrink"
    factor = ((values[..., 0] + 2 * values[..., 1]) * present).sum(dim=1)
    assert (factor > (5 + number) / 2 - 1e-3).all()
    assert (factor < (6 + number) / 2 + 1e-3).all()


def test_maps_are_chosen_by_their_area() -> None:
    systems = draw_systems(100, seeded())
    torch.testing.assert_close(systems.probabilities.sum(dim=1), torch.ones(100))
    present = systems.probabilities > 0
    areas = torch.linalg.det(systems.matrices).abs().clamp_min(1e-3) * present
    torch.testing.assert_close(systems.probabilities, areas / areas.sum(dim=1, keepdim=True))
    reflected = torch.linalg.det(systems.matrices)[present] < 0
    assert float(reflected.float().mean()) == pytest.approx(0.5, abs=0.1)


def test_the_chaos_game_plays_the_sierpinski_triangle() -> None:
    (x, y), _ = play_chaos_game(sierpinski([0.5, 0.3, 0.2]), chains=1000, steps=20, generator=seeded())
    assert x.shape == (1, 20_000)
    tolerance = 2**-16  # how far the start may still be
    # No binary digit of x and y is 1 at the same place; four of them are tested.
    for scale in (1, 2, 4, 8):
        in_x, in_y = (x * scale) % 1, (y * scale) % 1
        assert (in_x + in_y <= 1 + scale * tolerance).logical_or((in_x > 1 - 1e-3) | (in_y > 1 - 1e-3)).all()
    shares = torch.stack([(x < 0.5) & (y < 0.5), x > 0.5, y > 0.5]).float().mean(dim=(1, 2))
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.02, rtol=0)


def test_systems_beside_each_other_do_not_mix() -> None:
    halves = sierpinski([0.4, 0.3, 0.3])
    far = halves._replace(offsets=halves.offsets + 5)  # fixed points move by 10
    both = Systems(*(torch.cat(pair) for pair in zip(halves, far, strict=True)))
    points, _ = play_chaos_game(both, chains=100, steps=4, generator=seeded())
    assert points[:, 0].max() <= 1.001
    assert points[:, 1].min() >= 9.999


def test_the_last_maps_colour_counts_half_and_the_one_before_a_quarter() -> None:
    (x, y), shades = play_chaos_game(sierpinski([0.4, 0.3, 0.3]), chains=1000, steps=40, generator=seeded())
    # In binary digits, the first of x is 1 if the last map was the second, the next one for the map before.
    last, before = x > 0.5, x % 0.5 > 0.25
    first_digit, second_digit = (
        shades[:, digit].mean(dim=1) - shades[:, ~digit].mean(dim=1) for digit in (last, before)
    )
    torch.testing.assert_close(first_digit, 2 * second_digit, atol=0.01, rtol=0)
    assert first_digit.abs().max() > 0.1
    assert shades.min() >= 0
    assert shades.max() <= 1
    at_fixed_point = torch.hypot(x, y) < 2**-6  # the first map many times in a row: its colour alone
    assert shades[:, at_fixed_point].std(dim=1).max() < 0.02


def test_points_are_placed_in_a_square_without_distortion() -> None:
    points = torch.rand(2, 200, 50, generator=seeded()) * torch.tensor([4.0, 1.0])[:, None, None] + 7
    found = placed(points, seeded())
    extent = found.amax(dim=2) - found.amin(dim=2)  # [2, S]
    assert extent[0].min() >= 0.4 - 1e-4
    assert extent[0].max() <= 1.2 + 1e-4
    before = points.amax(dim=2) - points.amin(dim=2)
    torch.testing.assert_close(extent[1] / extent[0], before[1] / before[0], atol=1e-3, rtol=1e-3)


def test_rendering_counts_and_averages() -> None:
    # Image 0: three points in pixel (row 0, column 1), one in (3, 3), one outside. Image 1: none inside.
    x = torch.tensor([[0.26, 0.30, 0.49, 0.99, -0.01], [1.0, -3.0, 0.5, 0.5, 7.0]])
    y = torch.tensor([[0.01, 0.10, 0.24, 0.80, 0.50], [0.5, 0.50, 1.0, -0.1, 9.0]])
    shades = torch.zeros(3, 2, 5)
    shades[0, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    colour, opacity = rendered(torch.stack([x, y]), shades, 4)
    assert colour.shape == (2, 3, 4, 4)
    assert opacity.shape == (2, 1, 4, 4)
    assert opacity[0, 0].nonzero().tolist() == [[0, 1], [3, 3]]
    assert opacity[0, 0, 0, 1] == 1
    assert 0 < opacity[0, 0, 3, 3] < 1
    torch.testing.assert_close(colour[0, :, 0, 1], torch.tensor([1 / 3, 0, 0]))
    torch.testing.assert_close(colour[0, :, 3, 3], torch.tensor([1.0, 0, 0]))
    assert not opacity[1].any()
