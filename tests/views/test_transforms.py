"""Crops, colours and squares, each against what it says."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn import functional as F

from dpvision.privacy import InputError, SeededRandom
from dpvision.views import SelfAugmentation
from dpvision.views.transforms import cut_out, jitter_colors, resized_crops

ALL = {"smallest_crop": 0.3, "color_jitter": 0.5, "cutout": 4}


def images(count: int, shape: tuple[int, ...] = (3, 10, 8)) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def numbers(count: int, each: int) -> Tensor:
    return torch.rand(count, each, generator=torch.Generator().manual_seed(1))


def test_a_crop_of_everything_is_the_image() -> None:
    uniform = numbers(5, 40)
    uniform.view(5, 10, 4)[:, 0, 1] = 0.5  # of the image's own ratio
    x = images(5, (3, 8, 8))
    assert torch.allclose(resized_crops(x, uniform, smallest=1.0), x, atol=1e-6)


def test_a_crop_is_a_resized_part_of_the_image() -> None:
    """The crop's place shows on two ramps, whose values are coordinates."""
    side = 16
    ramp = torch.arange(side).float() + 0.5
    x = torch.stack([ramp[:, None].expand(side, side), ramp.expand(side, side)])[None].repeat(3000, 1, 1, 1)
    cropped = resized_crops(x, numbers(3000, 40), smallest=0.25)
    steps = cropped[:, 0, 9, 0] - cropped[:, 0, 6, 0], cropped[:, 1, 0, 9] - cropped[:, 1, 0, 6]
    height, width = (step / 3 * side for step in steps)  # of the crop, in pixels
    area = height * width / side**2
    assert area.min() > 0.25 - 0.1
    assert area.max() < 1.001
    assert 0.1 < (area < 0.4).float().mean() < 0.3
    assert 0.1 < (area > 0.7).float().mean() < 0.4
    assert (height / width).log().abs().max() < torch.tensor(4 / 3).log() + 0.15
    top = cropped[:, 0, 8, 0] - height / 2  # from the middle
    assert top.min() > -0.6
    assert (top + height).max() < side + 0.6


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_change_one_after_the_other(channels: int) -> None:
    """Against the definitions in plain terms, image by image, without clamping for such images."""
    x = 0.45 + 0.1 * images(6, (channels, 5, 4))
    factors = numbers(6, 3)
    changed = x.clone()
    jitter_colors(changed, factors, 0.4)
    weights = torch.tensor([0.2989, 0.587, 0.114])
    for before, after, u in zip(x, changed, factors, strict=True):
        brightness, contrast, saturation = (0.6 + 0.8 * u).tolist()

        def grey(image: Tensor) -> Tensor:
            return (image * weights[:, None, None]).sum(dim=0) if channels == 3 else image[0]

        image = before * brightness
        image = contrast * image + (1 - contrast) * grey(image).mean()
        if channels == 3:
            image = saturation * image + (1 - saturation) * grey(image)
        assert torch.allclose(after, image, atol=1e-5)


def test_colours_stay_in_range_and_strength_zero_changes_none() -> None:
    x = images(50)
    changed = x.clone()
    jitter_colors(changed, numbers(50, 3), 3.0)
    assert changed.min() == 0
    assert changed.max() == 1
    draws = SeededRandom(0).by_example().of(torch.arange(50))
    views, _ = SelfAugmentation(2, 0, flip=False)((x * 255).byte(), torch.zeros(50).long(), draws)
    assert torch.equal(views[:, 1], (x * 255).byte().float() / 255)


def test_a_square_is_covered_around_a_random_centre() -> None:
    x = torch.ones(8000, 1, 6, 5)
    cut_out(x, numbers(8000, 2), 3)
    covered = x[:, 0] == 0.5
    assert torch.equal(covered, x[:, 0] != 1)
    inside = covered[(covered.sum(dim=(1, 2)) == 9)]  # nothing hangs over
    rows, columns = inside.any(dim=2), inside.any(dim=1)
    assert (rows.sum(dim=1) == 3).all()
    assert (columns.sum(dim=1) == 3).all()
    # Of 6 × 5 centres, those not at the border have the whole square: 4 × 3, all alike.
    top, left = rows.float().argmax(dim=1), columns.float().argmax(dim=1)
    assert chisquare(torch.bincount(top * 3 + left, minlength=12)).pvalue > 1e-3
    assert abs(len(inside) / 8000 - 12 / 30) < 0.03


@pytest.mark.parametrize("shape", [(1, 9, 6), (3, 8, 8)])
def test_all_of_them_compose_and_parts_of_a_batch_get_the_same_views(shape: tuple[int, int, int]) -> None:
    pixels = (images(7, shape) * 255).byte()
    targets = torch.arange(7)
    policy = SelfAugmentation(augmult=3, pad=2, include_original=True, **ALL)
    draws = SeededRandom(0).by_example().of(torch.arange(7))
    whole, _ = policy(pixels, targets, draws)
    assert whole.shape == (7, 3, *shape)
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert torch.equal(whole[:, 0], pixels.float() / 255)
    parts = [policy(pixels[some], targets[some], draws[some])[0] for some in torch.arange(7).split(3)]
    assert torch.equal(whole, torch.cat(parts))
    plain, _ = SelfAugmentation(augmult=3, pad=2)(pixels, targets, draws[:])
    assert F.mse_loss(whole[:, 1:], plain[:, 1:]) > 0.001


def test_what_makes_no_sense_is_refused() -> None:
    for options, message in (
        ({"smallest_crop": 0.0}, "smallest_crop must be above 0 and at most 1"),
        ({"smallest_crop": 1.5}, "smallest_crop must be above 0 and at most 1"),
        ({"color_jitter": -0.1}, "color_jitter must be at least 0"),
        ({"cutout": -1}, "cutout must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            SelfAugmentation(**options)
