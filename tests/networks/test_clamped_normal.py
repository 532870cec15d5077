"""Images drawn from clamped normal laws, and the basis that their moments are released in."""

from __future__ import annotations

import pytest
import torch

from dpvision.networks import image_generator
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.cosine_basis import CosineBasis
from dpvision.networks.image_generator import images_at_a_time
from dpvision.privacy import InputError

NAMES = ("dark", "light")


def law(image_shape: tuple[int, int, int] = (1, 4, 4), rank: int = 2, **more: int) -> ClampedNormal:
    small = (4, 4)
    generator = ClampedNormal(image_shape, NAMES, small, rank, **more)
    generator.location[0], generator.location[1] = -0.5, 0.8
    generator.scale.fill_(0.4)
    generator.root[:, :, 0] = 0.6
    return generator


def test_pixels_are_clamped_and_vary_together_as_the_root_says() -> None:
    images = law().sample(20_000, labels=[1] * 20_000, seed=0)
    x = images.take(torch.arange(20_000)).flatten(1).double() / 255
    inner = law()
    inner.location[1] = 0.5
    inner.scale.fill_(0.1)  # nothing is clamped
    free = inner.sample(20_000, labels=[1] * 20_000, seed=0).take(torch.arange(20_000)).flatten(1).double()
    correlation = torch.corrcoef(free.T)
    assert float(correlation[0, 1]) == pytest.approx(0.36, abs=0.03)  # root·rootᵀ
    assert float(free.std(dim=0).mean() / 255) == pytest.approx(0.1, rel=0.03)
    assert float((x == 1).double().mean()) == pytest.approx(0.31, abs=0.02)  # P(g > 1) at 0.8 ± 0.4
    dark = law().sample(100, labels=["dark"] * 100, seed=0)
    assert float((dark.take(torch.arange(100)) == 0).double().mean()) > 0.85


def test_large_images_are_made_few_at_a_time_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, sizes = law((1, 20, 20)), list[int]()
    forward = ClampedNormal.forward

    def counted(self: ClampedNormal, labels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        sizes.append(len(labels))
        return forward(self, labels, noise)

    monkeypatch.setattr(ClampedNormal, "forward", counted)
    at_once = generator.sample(100, seed=0)
    monkeypatch.setattr(image_generator, "NUMBERS_AT_A_TIME", 40 * 400)
    in_parts = generator.sample(100, seed=0)
    assert sizes == [100, 32, 32, 32, 4]
    assert torch.equal(at_once.pixels, in_parts.pixels)
    monkeypatch.undo()
    assert [images_at_a_time((3, side, side)) for side in (28, 128, 256, 10_000)] == [512, 512, 128, 16]


def test_each_image_is_of_its_class_whatever_the_order() -> None:
    generator = law()
    noise = torch.randn(6, *generator.noise_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    whole = generator(labels, noise)
    for number in range(6):
        torch.testing.assert_close(whole[number], generator(labels[[number]], noise[[number]])[0])


def test_warps_move_what_is_in_an_image_and_nothing_without_them() -> None:
    generator = law((1, 16, 16))
    generator.scale.zero_()
    generator.location[0] = torch.zeros(16)
    generator.location[0, 5] = 1.0  # a spot
    still = generator.sample(50, labels=[0] * 50, seed=0).take(torch.arange(50))
    assert torch.equal(still, still[:1].expand_as(still))
    generator.warps.copy_(torch.tensor([0.1, 0.03]))
    moved = generator.sample(50, labels=[0] * 50, seed=0).take(torch.arange(50)).float()
    assert float(moved.std(dim=0).max()) > 20
    assert float(moved.mean()) == pytest.approx(float(still.float().mean()), rel=0.2)


def test_larger_images_have_details() -> None:
    generator = law((3, 8, 8), rank=2, num_details=5)
    plain = generator.sample(40, seed=0).take(torch.arange(40))
    generator.set_details(torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    detailed = generator.sample(40, seed=0).take(torch.arange(40))
    assert (plain != detailed).float().mean() > 0.3


@pytest.mark.parametrize("num_details", [0, 100])
def test_averaged_images_are_the_averages_of_images(num_details: int) -> None:
    """But for clamping, which this law needs next to never."""
    generator = law((1, 16, 12), num_details=num_details)
    generator.location.fill_(0.5)
    generator.scale.fill_(0.05)
    if num_details:
        shape = (num_details, 1, 16, 12)
        generator.set_details(0.4 * torch.rand(shape, generator=torch.Generator().manual_seed(1)))
    generator.warps.fill_(0.1)
    small = generator.averaged((8, 6))
    assert small.image_shape == (1, 8, 6)
    assert not small.warps.any()
    generator.warps.zero_()
    images, averages = (each.sample(50, seed=0).take(torch.arange(50)).float() for each in (generator, small))
    expected = torch.nn.functional.adaptive_avg_pool2d(images, (8, 6))
    torch.testing.assert_close(averages, expected, rtol=0, atol=6)


def test_a_generator_is_made_again_of_its_configuration() -> None:
    generator = law((3, 8, 8), rank=3, num_details=2)
    again = ClampedNormal.from_config(generator.config)
    again.load_state_dict(generator.state_dict())
    one, other = (each.sample(7, seed=3).take(torch.arange(7)) for each in (generator, again))
    assert torch.equal(one, other)


@pytest.mark.parametrize("small", [(0, 4), (9, 4), (4,)])
def test_sides_that_do_not_fit_are_refused(small: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="a law of images"):
        ClampedNormal((1, 8, 8), NAMES, small, 2)


@pytest.mark.parametrize("rank", [0, 17])
def test_a_rank_that_does_not_fit_is_refused(rank: int) -> None:
    with pytest.raises(InputError, match="rank from 1 to 16"):
        ClampedNormal((1, 4, 4), NAMES, (4, 4), rank)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10), (1, 1, 5)])
def test_cosine_waves_are_an_orthonormal_basis(shape: tuple[int, int, int]) -> None:
    basis = CosineBasis(shape)
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    waves = basis.waves_of(images)
    torch.testing.assert_close(waves.norm(dim=1), images.flatten(1).norm(dim=1))
    torch.testing.assert_close(basis.images_of(waves), images, rtol=0, atol=1e-6)
    assert len(basis.frequencies) == len(basis.bands) == waves.shape[1]


def test_a_plain_image_is_the_wave_of_frequency_zero() -> None:
    basis = CosineBasis((3, 8, 8))
    waves = basis.waves_of(torch.full((1, 3, 8, 8), 0.5))[0]
    (place,) = waves.abs().gt(1e-5).nonzero().flatten().tolist()
    assert basis.frequencies[place] == 0


def test_bands_are_of_one_channel_and_near_frequencies() -> None:
    basis = CosineBasis((3, 8, 8))
    values = torch.rand(2, 192)
    means = basis.mean_by_band(values)
    for band in basis.bands.unique():
        chosen = basis.bands == band
        torch.testing.assert_close(
            means[:, chosen], values[:, chosen].mean(dim=1, keepdim=True).expand(2, int(chosen.sum()))
        )
        places = chosen.nonzero().flatten()
        assert len((places // 64).unique()) == 1
        frequencies = basis.frequencies[chosen]
        assert float((1 + frequencies.max()) / (1 + frequencies.min())) < 1.2
