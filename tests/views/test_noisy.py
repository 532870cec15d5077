"""Noisy views of an image for a denoiser: what is drawn, what is asked of it, and that no example leaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from dpvision.networks.denoiser import centres_of, preconditioning, unpacked
from dpvision.privacy import InputError, SeededRandom
from dpvision.views import NoisyViews, check_no_leak, check_no_leak_of_units

CLASSES = 3
CENTRED = NoisyViews(2, 2, centres=torch.rand(2, 1, 8, 8))


def batch(count: int, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return pixels, torch.arange(count) % CLASSES


def made(policy: NoisyViews, pixels: Tensor, targets: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    return policy(pixels, targets, SeededRandom(seed).by_example().of(torch.arange(len(pixels))))


def sigmas(views: Tensor, channels: int = 1) -> Tensor:
    _, level, _ = unpacked(views.flatten(0, 1), channels, CLASSES)
    return (4 * level).exp().view(views.shape[:2])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_a_view_and_its_target_say_what_the_image_is(shape: tuple[int, int, int]) -> None:
    """kept·x + added·target is the clean image, whatever the noise."""
    pixels, labels = batch(20, shape)
    views, targets = made(NoisyViews(4, CLASSES), pixels, labels)
    x, level, classes = unpacked(views.flatten(0, 1), shape[0], CLASSES)
    how = preconditioning((4 * level).exp()[..., None, None])
    clean = how.kept * x / how.scale + how.added * targets.flatten(0, 1)
    expected = (pixels.float() / 127.5 - 1)[:, None].expand(-1, 4, -1, -1, -1).flatten(0, 1)
    torch.testing.assert_close(clean, expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(classes.argmax(dim=1), labels.repeat_interleave(4))
    assert torch.equal(classes.sum(dim=1), torch.ones(80))


def test_images_are_less_the_centre_of_their_class() -> None:
    """And as they are where the class is left out."""
    centres = torch.linspace(-1, 1, CLASSES * 64).view(CLASSES, 1, 8, 8)
    pixels, labels = batch(30)
    views, targets = made(NoisyViews(2, CLASSES, unlabelled=0.3, centres=centres), pixels, labels)
    x, level, classes = unpacked(views.flatten(0, 1), 1, CLASSES)
    how = preconditioning((4 * level).exp()[..., None, None])
    clean = how.kept * x / how.scale + how.added * targets.flatten(0, 1)
    whole = clean + centres_of(centres, classes)
    expected = (pixels.float() / 127.5 - 1).repeat_interleave(2, dim=0)
    torch.testing.assert_close(whole, expected, rtol=1e-3, atol=1e-3)
    left_out = classes.sum(dim=1) == 0
    assert 5 < int(left_out.sum()) < 35
    torch.testing.assert_close(clean[left_out], expected[left_out], rtol=1e-3, atol=1e-3)


def test_noise_is_normal_and_its_levels_follow_their_law() -> None:
    pixels = torch.zeros(300, 1, 8, 8, dtype=torch.uint8)
    policy = NoisyViews(5, CLASSES, level_mean=-0.5, level_spread=1.1)
    views, _ = made(policy, pixels, torch.zeros(300, dtype=torch.int64))
    found = sigmas(views)
    standard = (found.log() + 0.5) / 1.1
    assert kstest(standard.flatten().numpy(), "norm").pvalue > 1e-3
    scale = preconditioning(found).scale
    noise = (views[:, :, 0] / scale[..., None, None] + 1) / found[..., None, None]
    # Weak noise on a pixel of −1 is rounded away; the rest is as it was drawn.
    assert kstest(noise[found > 0.3].flatten().numpy(), "norm").pvalue > 1e-3


def test_each_image_sees_every_part_of_the_law_of_levels_and_draws_its_own() -> None:
    views, _ = made(NoisyViews(4, CLASSES), *batch(50))
    found = sigmas(views)
    assert (found.diff(dim=1) > 0).all()
    assert all(len(column.unique()) == 50 for column in found.T)


def test_flips_and_classes_left_out_are_as_frequent_as_said() -> None:
    pixels = torch.zeros(400, 1, 8, 8, dtype=torch.uint8)
    pixels[..., 4:] = 255
    labels = torch.zeros(400, dtype=torch.int64)
    policy = NoisyViews(1, CLASSES, level_mean=-4.0, level_spread=0.0, flip=True, unlabelled=0.25)
    views, _ = made(policy, pixels, labels)
    x, _, classes = unpacked(views.flatten(0, 1), 1, CLASSES)
    assert 150 < int((x[:, 0, :, 0].mean(dim=1) > 0).sum()) < 250
    assert 70 < int((classes.sum(dim=1) == 0).sum()) < 130
    assert torch.equal(made(policy, pixels, labels - 1)[0][:, :, 1], torch.zeros(400, 1, 8, 8)) is False
    unlabelled = made(replace(policy, unlabelled=0.0), pixels, labels - 1)[0]
    assert not unpacked(unlabelled.flatten(0, 1), 1, CLASSES)[2].any()


@pytest.mark.parametrize("policy", [NoisyViews(1, 2), NoisyViews(3, 2, flip=True, unlabelled=0.5), CENTRED])
def test_no_example_leaks(policy: NoisyViews) -> None:
    check_no_leak(policy, (1, 8, 8))
    check_no_leak_of_units(policy, (3, 8, 8), 2)
    views, targets = made(policy, *batch(0))
    assert views.shape == (0, policy.count, 2, 8, 8)
    assert targets.shape == (0, policy.count, 1, 8, 8)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8)])
def test_a_view_is_the_same_to_the_last_bit_in_batches_of_other_sizes_and_order(
    shape: tuple[int, int, int],
) -> None:
    """Of so many that numbers are worked on several at a time, and some are left over."""
    policy = NoisyViews(3, CLASSES, flip=True, unlabelled=0.3, centres=torch.rand(CLASSES, *shape))
    pixels, labels = batch(131, shape)
    views, targets = made(policy, pixels, labels)
    random = torch.Generator().manual_seed(0)
    for count in (1, 2, 15, 67, 130):
        some = torch.randperm(131, generator=random)[:count]
        draws = SeededRandom(0).by_example().of(some)
        found, wanted = policy(pixels[some], labels[some], draws)
        assert torch.equal(found, views[some])
        assert torch.equal(wanted, targets[some])


def test_a_unit_is_shown_by_an_image_for_each_level() -> None:
    policy = NoisyViews(4, CLASSES, level_mean=-4.0, level_spread=0.0)
    pixels, labels = batch(8)
    classes = torch.nn.functional.one_hot(labels, CLASSES).view(2, 4, CLASSES)
    draws = SeededRandom(0).by_example().of(torch.arange(2))
    views, _ = policy.of_units(pixels.view(2, 4, 1, 8, 8), classes, draws)
    x, _, found = unpacked(views.flatten(0, 1), 1, CLASSES)
    assert torch.equal(found.argmax(dim=1), labels)
    shown = x / preconditioning(torch.tensor(-4.0).exp()).scale
    assert float((shown - (pixels.float() / 127.5 - 1)).abs().max()) < 0.2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "noise_levels must be between 1 and"),
        ({"level_mean": 5.0}, "level_mean must be between -4 and 4"),
        ({"level_mean": float("nan")}, "level_mean must be between -4 and 4"),
        ({"level_spread": -1.0}, "level_spread must be between 0 and 4"),
        ({"unlabelled": 1.5}, "unlabelled must be between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NoisyViews(**({"count": 1, "num_classes": CLASSES} | values))
