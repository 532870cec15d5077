"""dp-moments: what is released in two steps and at which cost, and the law that is made of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import pytest
import torch
from torch import Tensor

import dpvision
from dpvision.images import Images
from dpvision.methods.clamped_law import clamped_law
from dpvision.methods.class_sizes import class_sizes
from dpvision.methods.dp_moments import DPMoments, DPMomentsConfig
from dpvision.methods.law_of_images import IMAGES_OF_A_CLASS, WARPS, _above_noise, _thinned
from dpvision.methods.method import Workplace
from dpvision.methods.moments import Moments, first_sums, second_sums
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.privacy import Budget, InputError
from tests.methods.learning import CPU, calibrated, facts, facts_of, learned

NAMES = ("dark", "light")
BUDGET = Budget(5.0, 1e-4)


def made(count: int = 400, seed: int = 0, side: int = 8) -> Images:
    """Dark images with a bright half, left or upper by class, whose brightness differs; a third are light."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % 3 == 0).long()
    pixels = torch.randint(40, (count, 1, side, side), generator=generator)
    bright = torch.randint(80, 180, (count, 1, 1, 1), generator=generator)
    left, upper = torch.zeros(2, side, side, dtype=torch.int64)
    left[:, : side // 2], upper[: side // 2] = 1, 1
    pixels += bright * torch.where(labels.view(-1, 1, 1, 1) == 0, left, upper)
    return Images(pixels.to(torch.uint8), labels, NAMES, "made")


def config_for(images: Images, budget: Budget = BUDGET, **overrides: Any) -> DPMomentsConfig:
    return DPMoments().default_config(facts_of(images), budget, CPU, overrides)


def law_of(images: Images, budget: Budget = BUDGET, **overrides: Any) -> tuple[ClampedNormal, Any]:
    config = config_for(images, budget, **overrides)
    what = learned(DPMoments(), config, images, budget)
    finished = DPMoments().finish(config, what, facts_of(images), Workplace(CPU))
    assert isinstance(finished.model, ClampedNormal)
    return finished.model, finished.card["moments"]


def drawn(generator: ClampedNormal, label: int, count: int = 2000) -> Tensor:
    labels = torch.full((count,), label) if generator.class_names else None
    return generator.sample(count, labels=labels, seed=0).take(torch.arange(count)).flatten(1).double() / 255


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_both_steps_cost_what_one_gaussian_release_does(share: float) -> None:
    """Balle and Wang's (arXiv 1805.06530), by dp_accounting: 1/σ² of the two steps add up."""
    config = DPMomentsConfig(size=8, share_of_means=share)
    plan = calibrated(DPMoments(), config, facts(1000, (1, 8, 8)), Budget(1.0, 1e-5))
    assert plan.noise_multiplier == pytest.approx(dp_accounting.get_sigma_gaussian(1.0, 1e-5), rel=2e-3)
    first, second = plan.stages
    assert first.mechanism.cost(1).noise_multiplier == pytest.approx(plan.noise_multiplier / math.sqrt(share))
    assert second.count == 1


def test_the_releases_are_the_sums_with_the_noise_of_the_plan() -> None:
    images, config = made(), config_for(made())
    what, moments = learned(DPMoments(), config, images, BUDGET), config_for(made()).moments(facts_of(made()))
    of_means, of_rest = what.facts["noise"]
    exact = first_sums(moments, images, CPU)
    noise = torch.cat([(what.tensors[f"first.{name}"] - exact[name]).flatten() for name in exact])
    assert float(noise.std()) == pytest.approx(of_means, rel=0.15)
    first = {name: what.tensors[f"first.{name}"] for name in exact}
    centred = moments.centred(first, of_means, len(images))
    noise = (what.tensors["second.moments"] - second_sums(centred, images, CPU)["moments"]).flatten()
    assert float(noise.std()) == pytest.approx(of_rest, rel=0.1)
    # What is released beside them follows from the first step alone.
    assert what.tensors.keys() == {
        "first.first",
        "first.counts",
        "about.means",
        "about.spread",
        "second.moments",
    }
    torch.testing.assert_close(what.tensors["about.means"].double(), centred.means, rtol=1e-4, atol=1e-5)
    assert float(what.tensors["about.spread"]) == pytest.approx(centred.spread, rel=1e-4)


def test_no_image_is_longer_than_the_bound_allows() -> None:
    """Black, white, checkered: whatever the means are."""
    moments = config_for(made()).moments(facts_of(made()))
    board = (torch.arange(64).view(8, 8) + torch.arange(8)[:, None]) % 2 * 255
    extreme = torch.stack([torch.zeros(8, 8), torch.full((8, 8), 255), board])[:, None].to(torch.uint8)
    waves = moments.waves(extreme)
    torch.testing.assert_close(
        moments.first_features(waves).norm(dim=1),
        torch.full((3,), math.sqrt(1 + 1 / 16), dtype=torch.float64),
    )
    sums = first_sums(moments, made(), CPU)
    centred = moments.centred(sums, 0.0, 400)
    assert float(centred.vectors(waves, torch.tensor([0, 1, 1])).norm(dim=1).max()) <= 1 + 1e-12


def test_without_noise_the_means_the_counts_and_the_spread_are_those_of_the_images() -> None:
    images = made()
    config = config_for(images, share_of_means=0.5)
    moments = config.moments(facts_of(images))
    centred = moments.centred(first_sums(moments, images, CPU), 0.0, len(images))
    waves = moments.waves(images.pixels).double()
    assert images.labels is not None
    for label in range(2):
        torch.testing.assert_close(
            centred.means[label], waves[images.labels == label].mean(dim=0), rtol=1e-3, atol=1e-3
        )
    distances = (waves - centred.means[images.labels]) * moments.weights
    assert centred.bound == pytest.approx(float(distances.square().sum(dim=1).mean().sqrt()), rel=1e-2)
    assert centred.counted.tolist() == pytest.approx([266, 134], rel=1e-3)


def test_images_have_the_moments_of_their_class() -> None:
    images = made(3000)
    generator, card = law_of(images, Budget(50.0, 1e-4), warps=False)
    assert images.labels is not None
    for label in range(2):
        x, private = drawn(generator, label), images.pixels[images.labels == label].flatten(1).double() / 255
        torch.testing.assert_close(x.mean(dim=0), private.mean(dim=0), rtol=0, atol=0.04)
        wanted = private.T.cov()
        assert float((x.T.cov() - wanted).norm() / wanted.norm()) < 0.25
    assert generator.class_proportions.tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.03)
    assert all(count >= 1 for count in card["directions_above_noise"])


def test_with_more_noise_than_signal_images_are_plain_and_finite() -> None:
    generator, card = law_of(made(60), Budget(0.05, 1e-4))
    x = drawn(generator, 1, 200)
    assert x.isfinite().all()
    assert card["warps"] == {"affine": 0.0, "elastic": 0.0}, "noise is no reason for a warp"
    assert 0.1 < float(x.mean()) < 0.7


@pytest.mark.parametrize("side", [16, 64])
def test_images_that_are_shifted_at_random_are_warped(side: int) -> None:
    """Spots here or there, which a law of pixels blurs and a warp does not."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.arange(16).float()
    places = 7.5 + 1.2 * torch.randn(6000, 2, generator=generator)
    squares = (grid[None, :, None] - places[:, :1, None]) ** 2 + (grid[None, None] - places[:, 1:, None]) ** 2
    pixels = (255 * torch.exp(-squares / 8)).round().to(torch.uint8)[:, None]
    pixels = pixels.repeat_interleave(side // 16, dim=2).repeat_interleave(side // 16, dim=3)
    images = Images(pixels, torch.arange(6000) % 2, NAMES, "spots")
    warped, card = law_of(images, Budget(10.0, 1e-5), rank=1, size=16, num_details=0)
    assert (card["warps"]["affine"], card["warps"]["elastic"]) in [pytest.approx(each) for each in WARPS[1:]]
    assert warped.warps.all()


def test_warps_are_chosen_by_images_that_are_not_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of one class at a time: memory grows with neither."""
    drawn = []

    def sample(self: ClampedNormal, count: int, **options: Any) -> Images:
        drawn.append((count, self.image_shape))
        return sampled(self, count, **options)

    sampled = ClampedNormal.sample
    monkeypatch.setattr(ClampedNormal, "sample", sample)
    law_of(made(side=40), size=4, num_details=3)
    assert set(drawn) == {(IMAGES_OF_A_CLASS, (1, 8, 8))}
    assert len(drawn) == len(NAMES) * len(WARPS)


def test_a_forecast_counts_the_choice_of_warps_and_the_details(monkeypatch: pytest.MonkeyPatch) -> None:
    of = facts(100, (1, 48, 48))

    def seconds(**overrides: Any) -> float:
        config = DPMoments().default_config(of, BUDGET, CPU, {"size": 4, "num_details": 0, **overrides})
        return DPMoments().estimate(config, of, CPU).seconds

    monkeypatch.setattr("dpvision.methods.dp_moments.seconds_of_warps", lambda *_: 1000.0)
    assert seconds(warps=False) < 1000
    assert 2000 < seconds() < 3000
    assert seconds(num_details=10_000, warps=False) > seconds(num_details=100, warps=False)


def test_unlabelled_images_have_one_law() -> None:
    images = replace(made(), labels=None, class_names=())
    generator, _ = law_of(images)
    assert generator.sample(5).labels is None
    labelled, _ = law_of(made(), labelled=False)
    assert labelled.class_names == ()


def test_labels_are_needed_for_classes() -> None:
    with pytest.raises(InputError, match="set labelled to false"):
        config_for(replace(made(), labels=None, class_names=()), labelled=True)


def test_many_classes_get_smaller_moments() -> None:
    names = tuple(map(str, range(200)))
    of = facts(1_000_000, (1, 28, 28), names)
    config = DPMoments().default_config(of, BUDGET, CPU, {})
    assert config.size < 28
    with pytest.raises(InputError, match="choose a smaller size"):
        DPMoments().default_config(of, BUDGET, CPU, {"size": 28})


@pytest.mark.parametrize("channels", [1, 3])
def test_any_usual_number_of_classes_has_a_size(channels: int) -> None:
    for classes in (2, 25, 26, 100, 1000, 3810, 3906, 21_841, 100_000):
        of = facts(10**6, (channels, 64, 64), tuple(map(str, range(classes))))
        assert DPMoments().default_config(of, BUDGET, CPU, {}).size >= 1


@pytest.mark.parametrize("count", [1, 2, 7])
def test_very_few_images_are_no_error(tmp_path: Path, count: int) -> None:
    images = made(count, side=28)
    result = dpvision.synthesize(images, epsilon=1.0, delta=1e-3, out=tmp_path / "run")
    assert result.count == count
    assert 0 < result.generator.sample(9, seed=0).take(torch.arange(9)).float().mean() < 255


def test_as_many_classes_as_images(tmp_path: Path) -> None:
    images = made(40, side=12)
    named = replace(images, labels=torch.arange(40), class_names=tuple(map(str, range(40))))
    result = dpvision.synthesize(named, epsilon=1.0, out=tmp_path / "run")
    assert len(result.generator.class_names) == 40


@pytest.mark.parametrize(
    "setting",
    [
        {"size": 0},
        {"share_of_means": 1.0},
        {"emphasis": -1.0},
        {"clip": 0.0},
        {"count_weight": 0.0},
        {"rank": 0},
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(setting))} must be"):
        config_for(made(), **setting)


def test_a_run_is_loaded_sampled_and_described(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "dp-moments", "epsilon": 3.0, "delta": 1e-3}
    forecast = dpvision.plan(made(), **options)
    assert [stage.count for stage in forecast.stages] == [1, 1]
    result = dpvision.synthesize(
        made(), out=tmp_path / "run", count=20, ledger=tmp_path / "ledger", **options
    )
    card = (tmp_path / "run" / "release" / "card.md").read_text()
    assert "## Moments" in card
    assert "normal law behind the pixels" in card
    assert (tmp_path / "run" / "release" / "moments.safetensors").exists()
    again = dpvision.load(tmp_path / "run")
    assert isinstance(again, ClampedNormal)
    one, other = (each.sample(9, seed=1).take(torch.arange(9)) for each in (again, result.generator))
    assert torch.equal(one, other)


def test_moments_of_images_wider_than_high(tmp_path: Path) -> None:
    images = made(side=12)
    wide = replace(images, pixels=images.pixels[:, :, :8])
    generator, _ = law_of(wide, size=6, num_details=3)
    assert generator.small_shape == (1, 6, 6)
    assert generator.sample(3).shape == (1, 8, 12)


@pytest.mark.parametrize(
    ("shape", "size", "count"),
    [((1, 32, 32), 28, 0), ((1, 41, 60), 28, 0), ((1, 42, 42), 28, 1000), ((3, 32, 32), 16, 1000)],
)
def test_details_are_for_images_much_larger_than_the_moments_unless_they_are_asked_for(
    shape: tuple[int, int, int], size: int, count: int
) -> None:
    """Or the law has much of what they add already."""
    of = facts(10_000, shape, NAMES)
    config = DPMoments().default_config(of, BUDGET, CPU, {})
    assert (config.size, config.num_details) == (size, count)
    assert DPMoments().default_config(of, BUDGET, CPU, {"num_details": 7}).num_details == 7
    assert DPMoments().default_config(of, BUDGET, CPU, {"size": 8}).num_details == 1000


def test_a_clamped_law_has_the_moments_that_were_asked_for() -> None:
    """Of a law that is known: its moments are measured, and a law with these is found."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 2, generator=generator) * 0.4
    location = torch.tensor([-0.4, 0.0, 0.3, 0.5, 0.9, 1.2])
    x = (location + torch.randn(200_000, 2, generator=generator) @ root.T).clamp(0, 1)
    mean, covariance = x.mean(dim=0), x.T.cov()
    found = clamped_law(mean, covariance, 6)
    z = torch.randn(200_000, 6, generator=generator)
    y = (found[0] + found[1] * (z @ found[2].T)).clamp(0, 1)
    torch.testing.assert_close(y.mean(dim=0), mean, rtol=0, atol=0.02)
    assert float((y.T.cov() - covariance).norm() / covariance.norm()) < 0.15


def test_pixels_that_never_differ_stay_as_they_are() -> None:
    location, scale, root = clamped_law(torch.tensor([0.0, 1.0, 0.5]), torch.zeros(3, 3), 3)
    x = (location + scale * (torch.randn(1000, 3) @ root.T)).clamp(0, 1)
    torch.testing.assert_close(x.mean(dim=0), torch.tensor([0.0, 1.0, 0.5]), rtol=0, atol=0.02)


def test_noise_alone_has_no_direction_and_a_large_one_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 200, generator=generator, dtype=torch.float64)
    noise = noise.triu(1) / math.sqrt(2) + noise.diag().diag() + (noise.triu(1) / math.sqrt(2)).T
    assert _above_noise(noise, 1.1)[1] == 0
    v = torch.ones(200, dtype=torch.float64) / math.sqrt(200)
    low, count = _above_noise(noise + 60 * v[:, None] * v, 1.0)
    assert count == 1
    assert float(v @ low @ v) == pytest.approx(60, rel=0.15)
    assert float((low - 60 * v[:, None] * v).norm()) < float((noise + 0).norm()) / 5


def test_thinned_moments_have_independent_noise_of_twice_the_variance() -> None:
    exact = torch.zeros(40, 30, 30, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(exact.shape, generator=generator, dtype=torch.float64)
    above = noise.triu(1) / math.sqrt(2)
    released = above + above.transpose(1, 2) + torch.diag_embed(noise.diagonal(dim1=1, dim2=2))
    one, other = _thinned(released, 1.0, torch.Generator().manual_seed(2))
    torch.testing.assert_close(one, one.transpose(1, 2))
    assert float(one.square().mean() / released.square().mean()) == pytest.approx(2, rel=0.05)
    assert abs(float((one * other).mean() / one.square().mean())) < 0.05


@pytest.mark.parametrize(
    ("epsilon", "of_class"),
    [(0.5, [100] * 10), (1, [100] * 10), (4, [100] * 10), (1, [140] + [15] * 9)],
)
def test_with_noise_the_spread_is_on_average_that_about_the_means_with_noise(
    epsilon: float, of_class: list[int]
) -> None:
    """The means have the noise of the sums that they are compared with, which hides a part of the spread."""
    images = dpvision.open_images("bundled:digits")
    assert images.labels is not None
    where = [(images.labels == number).nonzero().flatten()[:size] for number, size in enumerate(of_class)]
    images = images.subset(torch.cat(where))
    config = config_for(images, Budget(epsilon, 1e-5))
    plan = calibrated(DPMoments(), config, facts_of(images), Budget(epsilon, 1e-5))
    moments, noise = config.moments(facts_of(images)), plan.stages[0].deviation
    exact, random = first_sums(moments, images, CPU), torch.Generator().manual_seed(0)
    waves = moments.waves(images.take(torch.arange(len(images)))).double()
    assert images.labels is not None
    stated, true = [], []
    for _ in range(60):
        draws = {n: torch.randn(t.shape, generator=random, dtype=t.dtype) * noise for n, t in exact.items()}
        centred = moments.centred({name: exact[name] + draws[name] for name in exact}, noise, len(images))
        distances = (waves - centred.means[images.labels]) * moments.weights
        stated.append(centred.spread)
        true.append(float(distances.square().sum(dim=1).mean()))
    assert sum(stated) / sum(true) == pytest.approx(1, abs=0.12)


def test_class_sizes_add_up_to_n_and_differ_by_what_noise_does_not_explain() -> None:
    assert class_sizes(torch.tensor([90.0, 110.0]), 1e6, 200).tolist() == [100, 100]
    assert class_sizes(torch.tensor([20.0, 180.0]), 0.0, 200).tolist() == [20, 180]
    assert class_sizes(torch.tensor([50.0, 210.0]), 0.0, 200).tolist() == [20, 180]
    assert class_sizes(torch.tensor([-500.0, 700.0]), 0.0, 200).min() >= 1
    assert class_sizes(torch.tensor([-50.0, 250.0]), 400.0, 200).min() == 20, "what noise hides"
    assert class_sizes(torch.tensor([-50.0, 250.0]), 400.0, 200).max() == pytest.approx(248.7, abs=0.1)


@pytest.mark.parametrize("labelled", [True, False])
def test_of_one_class_there_are_n_images(labelled: bool) -> None:
    images = replace(made(60), labels=torch.zeros(60, dtype=torch.int64), class_names=("all",))
    what = learned(DPMoments(), config := config_for(images, labelled=labelled), images, Budget(0.1, 1e-4))
    first = {name.removeprefix("first."): t for name, t in what.tensors.items() if name.startswith("first.")}
    centred = config.moments(facts_of(images)).centred(first, what.facts["noise"][0], 60)
    assert centred.sizes(torch.zeros(1, 65, 65, dtype=torch.float64), 100.0).tolist() == [60]
    assert float(centred.means.abs().max()) < 8, "noise is not divided by a size that is noise"


def test_moments_say_what_they_are_of() -> None:
    moments = Moments((3, 4, 4), 5, 0.25, 1.0, 0.2)
    assert moments.first.num_features == 50
    assert (moments.second.num_numbers, moments.second.num_classes) == (49, 5)
