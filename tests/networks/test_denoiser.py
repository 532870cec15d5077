"""The denoiser, and images drawn by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dpvision.gradients import clipped_gradient_sum, reference_clipped_sum
from dpvision.networks.denoiser import (
    SPREAD,
    Denoiser,
    packed,
    preconditioning,
    squared_error,
    unpacked,
)
from dpvision.networks.diffusion import DiffusionGenerator, noise_levels
from dpvision.networks.image_generator import MOST_IMAGES
from dpvision.privacy import InputError, SeededRandom
from dpvision.views import NoisyViews

NAMES = ("x", "y", "z")


def generator(side: int = 8, channels: int = 1, **options: Any) -> DiffusionGenerator:
    torch.manual_seed(0)
    patch = 1 if side == 8 else 2
    made = DiffusionGenerator(
        (channels, side, side), NAMES, **({"width": 8, "patch": patch, "rank": 3, "steps": 4} | options)
    )
    torch.nn.init.normal_(made.denoiser.last.weight, std=0.1)
    return made.eval()


@pytest.mark.parametrize("classes", [1, 3, 200])
def test_what_is_packed_is_unpacked(classes: int) -> None:
    x, level, which = torch.randn(5, 3, 8, 8), torch.randn(5, 1), torch.rand(5, classes)
    views = packed(x, level, which)
    assert views.shape[1:] == (3 + -(-(1 + classes) // 64), 8, 8)
    for found, expected in zip(unpacked(views, 3, classes), (x, level, which), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("side", [8, 16, 28, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_are_those_of_one_example_at_a_time(side: int, channels: int) -> None:
    """In float64, against the reference: of the mean loss over an example's noise levels, clipped once."""
    model = generator(side, channels).denoiser.double()
    model.centres.uniform_(-1, 1)
    pixels = torch.randint(256, (3, channels, side, side), dtype=torch.uint8)
    draws = SeededRandom(0).by_example().of(torch.arange(3))
    views, targets = NoisyViews(2, 3)(pixels, torch.tensor([0, 1, 2]), draws)
    views, targets = views.double(), targets.double()
    for clip in (1e-2, 1e3):
        found = clipped_gradient_sum(model, squared_error, views, targets, clip, precision="float32")
        expected = reference_clipped_sum(model, squared_error, views, targets, clip)
        for name, gradient in found.gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=2e-4, atol=1e-7 * clip)


def test_the_network_sees_and_gives_numbers_of_unit_size() -> None:
    clean, noise = SPREAD * torch.randn(2000, 1), torch.randn(2000, 1)
    for sigma in (0.01, 0.5, 20.0):
        how = preconditioning(torch.tensor(sigma))
        noisy = clean + sigma * noise
        assert float((how.scale * noisy).std()) == pytest.approx(1, abs=0.1)
        assert float(((clean - how.kept * noisy) / how.added).std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("steps", [1, 2, 12])
def test_of_a_normal_law_the_steps_draw_that_law(steps: int) -> None:
    """The best denoiser of images that are all alike says that image; of N(0, s²) it scales what it sees."""
    made = generator(steps=steps)
    spread = 0.2

    def best(x: Tensor, sigma: float, classes: Tensor) -> Tensor:
        return spread**2 / (spread**2 + sigma**2) * x

    made.denoised = best  # type: ignore[method-assign]
    x = made(torch.zeros(300, dtype=torch.int64), torch.randn(300, 1, 8, 8))
    found = float((2 * x - 1).std())
    assert found == pytest.approx(spread, rel=0.1) if steps == 12 else found < spread

    made.denoised = lambda x, sigma, classes: torch.full_like(x, 0.5)  # type: ignore[method-assign]
    x = made(torch.zeros(2, dtype=torch.int64), torch.randn(2, 1, 8, 8))
    torch.testing.assert_close(x, torch.full_like(x, 0.75))


def test_noise_falls_to_the_least() -> None:
    levels = noise_levels(10)
    assert levels == sorted(levels, reverse=True)
    assert (round(levels[0], 6), round(levels[-1], 6), len(levels)) == (80.0, 0.02, 10)


def test_samples_are_the_same_for_a_seed_and_of_the_class() -> None:
    made = generator()
    count = MOST_IMAGES + 20
    images = made.sample(count, seed=1)
    assert images.pixels.dtype == torch.uint8
    assert images.shape == (1, 8, 8)
    assert torch.equal(made.sample(count, seed=1).pixels, images.pixels)
    assert not torch.equal(made.sample(count, seed=2).pixels, images.pixels)
    one, other = (made.sample(4, labels=[name] * 4, seed=1) for name in ("x", "y"))
    assert other.labels is not None
    assert other.labels.tolist() == [1] * 4
    assert not torch.equal(one.pixels, other.pixels)
    same = DiffusionGenerator.from_config(made.config)
    same.load_state_dict(made.state_dict())
    assert torch.equal(same.eval().sample(4, seed=3).pixels, made.sample(4, seed=3).pixels)


def test_without_a_network_s_say_the_class_is_its_centre() -> None:
    """Of a denoiser that has learned nothing, noise of any size becomes a normal law about the centre."""
    made = generator(steps=12)
    torch.nn.init.zeros_(made.denoiser.last.weight)
    torch.nn.init.zeros_(made.denoiser.last.bias)  # type: ignore[arg-type]
    made.denoiser.centres.copy_(torch.tensor([-0.5, 0.0, 0.5]).view(3, 1, 1, 1))
    means = [
        float(made.sample(40, labels=[name] * 40, seed=1).take(torch.arange(40)).float().mean())
        for name in NAMES
    ]
    assert means[0] < 90 < 115 < means[1] < 140 < 165 < means[2]


def test_the_network_sees_the_centre_and_no_more_of_an_unknown_class() -> None:
    model = generator().denoiser
    x, level, classes = torch.randn(2, 1, 8, 8), torch.zeros(2, 1), torch.eye(3)[:2]
    known, unknown = packed(x, level, classes), packed(x, level, torch.zeros(2, 3))
    before, of_none = model(known), model(unknown)
    model.centres.uniform_(-1, 1)
    assert not torch.allclose(model(known), before)
    assert torch.equal(model(unknown), of_none)


def test_guidance_goes_further_than_the_class() -> None:
    made = generator()
    x, classes = 0.1 * torch.randn(4, 1, 8, 8), torch.eye(3)[torch.tensor([0, 1, 2, 0])]
    known, unknown = made.denoised(x, 0.5, classes), made.denoised(x, 0.5, torch.zeros(4, 3))
    made.guidance = 0.5
    expected = known + 0.5 * (known - unknown)
    torch.testing.assert_close(made.denoised(x, 0.5, classes), expected.clamp(-1, 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "1 to 1000 times"),
        ({"steps": "4"}, "1 to 1000 times"),
        ({"guidance": -1.0}, "guidance must be from 0 to 100"),
        ({"guidance": "no"}, "guidance must be from 0 to 100"),
        ({"width": 12}, "width must be a multiple of 8 up to 512"),
        ({"patch": 3}, "patch must be one of 1, 2, 4, 8"),
        ({"patch": 2}, "patch must be one of 1, 2, 4, 8"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generator(**options)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="a denoiser takes squares, not 16×8 pixels"):
        Denoiser((1, 8, 16), 2, 8, 1, 0)
