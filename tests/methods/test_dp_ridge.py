"""A head from sufficient statistics: what one example can change, what is solved, what is paid."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

import dpvision
from dpvision.images import Images
from dpvision.methods import Session, Workplace, dp_ridge
from dpvision.methods.dp_ridge import (
    COUNT_WEIGHT,
    REPLACE_ONE_RATIO,
    SENSITIVITY,
    DPRidge,
    DPRidgeConfig,
    ridge,
    sufficient_statistics,
)
from dpvision.priors.feature_classifier import encoded
from dpvision.privacy import Account, Budget, InputError, SeededRandom
from dpvision.privacy.triangles import Triangle
from tests.methods.learning import CPU, calibrated, facts, facts_of, uncalibrated

CLASSES = 3


def statistics(features: Tensor, labels: list[int]) -> Tensor:
    """All that is released of them, as one vector."""
    found = sufficient_statistics(features, torch.tensor(labels, dtype=torch.int64), CLASSES)
    return torch.cat([tensor.flatten() for tensor in found.values()])


def unit(*numbers: float) -> Tensor:
    return torch.nn.functional.normalize(torch.tensor(numbers, dtype=torch.float64), dim=0)


numbers = st.lists(st.floats(-1, 1), min_size=4, max_size=4)
examples = st.tuples(numbers, st.floats(0, 1), st.integers(0, CLASSES - 1))


@given(examples, examples, st.lists(examples, max_size=3))
def test_one_example_changes_no_more_than_declared(one: Any, other: Any, rest: list[Any]) -> None:
    def example(drawn: Any) -> Tensor:
        return drawn[1] * unit(*drawn[0])

    features = torch.stack([example(drawn) for drawn in (one, other, *rest)])
    labels = [drawn[2] for drawn in (one, other, *rest)]
    whole = statistics(features, labels)
    assert float((whole - statistics(features[1:], labels[1:])).norm()) <= SENSITIVITY
    replaced = statistics(features[1:], labels[1:]) - statistics(
        features[[0, *range(2, len(features))]], [labels[0], *labels[2:]]
    )
    assert float(replaced.norm()) <= REPLACE_ONE_RATIO * SENSITIVITY


@pytest.mark.parametrize(
    ("one", "other", "labels"),
    [
        (unit(1, 0), unit(0, 1), [0, 1]),  # orthogonal features of two classes
        (unit(1, 0), unit(-1, math.sqrt(3)), [0, 0]),  # one class at 120 degrees
    ],
)
def test_the_worst_pairs_come_near_to_what_is_declared(one: Tensor, other: Tensor, labels: list[int]) -> None:
    first, second = statistics(one[None], labels[:1]), statistics(other[None], labels[1:])
    assert float(first.norm()) == pytest.approx(SENSITIVITY, rel=1e-4)
    ratio = float((first - second).norm()) / SENSITIVITY
    assert ratio == pytest.approx(REPLACE_ONE_RATIO, rel=1e-4)
    assert ratio <= REPLACE_ONE_RATIO


def test_features_of_an_encoder_keep_the_promise() -> None:
    """Rounded to float32, and of images that hold nothing."""
    pixels = torch.randint(
        256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pixels[0], pixels[1] = 0, 255
    model = DPRidgeConfig(encoder="wrn-10-4-small").build_model(facts(40, (3, 16, 16), ("a", "b", "c")))
    features = encoded(model, Images(pixels, None, (), "made"))
    for index in range(40):
        assert float(statistics(features[index : index + 1], [0]).double().norm()) <= SENSITIVITY


def made(num_examples: int = 600, num_features: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(num_examples, generator=generator) ** 2 * CLASSES).long()  # unequal classes
    centres = torch.randn(CLASSES, num_features, generator=generator)
    features = centres[labels] + torch.randn(num_examples, num_features, generator=generator)
    return torch.nn.functional.normalize(features, dim=1).double(), labels


def test_without_noise_it_is_ridge_regression() -> None:
    """By scikit-learn. The regulariser is √2·noise·√D, also where nothing was drawn from it."""
    features, labels = made()
    one_hot = torch.nn.functional.one_hot(labels, CLASSES).double()
    noise = 0.7
    weights, intercepts = ridge(sufficient_statistics(features, labels, CLASSES), 600, noise)
    expected = Ridge(alpha=math.sqrt(2 * 12) * noise, fit_intercept=False).fit(
        features.numpy(), one_hot.numpy()
    )
    np.testing.assert_allclose(weights.numpy(), expected.coef_, rtol=1e-3, atol=1e-4)
    mean = (features @ weights.double().T + intercepts).mean(dim=0)
    torch.testing.assert_close(mean, one_hot.mean(dim=0), rtol=1e-4, atol=1e-4)


def test_weighted_intercepts_are_those_of_images_that_come_so_many_times() -> None:
    """The mean prediction of classes that count the same is 1/K for each; of others it is their share."""
    features, labels = made()
    statistics = sufficient_statistics(features, labels, CLASSES)
    for weights in (torch.bincount(labels).sum() / torch.bincount(labels), torch.tensor([1.0, 2.0, 5.0])):
        head, intercepts = ridge(statistics, 600, 1e-6, weights)
        expected = weights * torch.bincount(labels)
        expected = (expected / expected.sum()).float()
        predictions = (features @ head.double().T + intercepts).float()
        of_classes = torch.stack([predictions[labels == label].mean(dim=0) for label in range(CLASSES)])
        torch.testing.assert_close(expected @ of_classes, expected, rtol=1e-3, atol=1e-4)
    plain = ridge(statistics, 600, 1e-6)
    alike = ridge(statistics, 600, 1e-6, torch.ones(CLASSES))
    torch.testing.assert_close(plain, alike, rtol=1e-3, atol=1e-4)


def test_noise_that_a_head_shares_with_its_own_sums_does_not_move_the_intercepts() -> None:
    """On average over draws: without the correction the rare class would be said too rarely."""
    features, labels = made()
    exact, counts = sufficient_statistics(features, labels, CLASSES), torch.bincount(labels)
    weights, generator, noise = counts.sum() / counts, torch.Generator().manual_seed(0), 2.0
    off = []
    for _ in range(300):
        noisy = {
            name: total + noise * torch.randn(total.shape, generator=generator)
            for name, total in exact.items()
        }
        noisy["counts"] = exact["counts"]
        head, intercepts = ridge(noisy, 600, noise, weights)
        means = exact["sums"] / counts[:, None]
        off.append(means.mean(dim=0) @ head.double().T + intercepts - 1 / CLASSES)
    assert float(torch.stack(off).mean(dim=0).abs().max()) < 0.02


def test_the_regulariser_is_the_edge_of_the_noise() -> None:
    """The largest eigenvalue of a moment that is noise alone."""
    num_features, noise = 400, 3.0
    stored = num_features * (num_features + 1) // 2
    generator = torch.Generator().manual_seed(0)
    moment = Triangle.of(num_features).unpack(noise * torch.randn(1, stored, generator=generator))
    largest = float(torch.linalg.eigvalsh(moment).max())
    assert largest == pytest.approx(math.sqrt(2 * num_features) * noise, rel=0.05)


def test_it_is_one_gaussian_release_of_all_examples() -> None:
    for relation, ratio in (("add_or_remove_one", 1.0), ("replace_one", REPLACE_ONE_RATIO)):
        budget = Budget(1.0, 1e-5, relation)  # type: ignore[arg-type]
        plan = calibrated(DPRidge(), DPRidgeConfig(encoder="scattering"), facts(1000), budget)
        (stage,) = plan.stages
        assert (stage.count, stage.event.sample_rate, stage.mechanism.sensitivity) == (1, 1.0, SENSITIVITY)
        # Of the analytic Gaussian mechanism at ε = 1 and δ = 1e-5 (Balle and Wang, arXiv 1805.06530).
        assert plan.noise_multiplier == pytest.approx(3.730631634 * ratio, rel=0.01)


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(300)


OPTIONS: dict[str, Any] = {"epsilon": 50.0, "delta": 1e-3, "method": "dp-ridge"}
SMALL = {"encoder": "scattering", "encoder_options": {"cells": 2}}


def test_training_learns_and_releases_what_comes_back(images: Images, tmp_path: Path) -> None:
    train, test = images.subset(range(240)), images.subset(range(240, 300))
    result = dpvision.train(train, test=test, out=tmp_path / "run", config=SMALL, **OPTIONS)
    assert result.epsilon <= 50
    assert result.test_accuracy is not None
    assert result.test_accuracy.value > 0.8
    again = dpvision.load(result.release)
    assert torch.equal(again(test.pixels), result.model(test.pixels))
    card = json.loads((result.release / "card.json").read_text())
    (mechanism,) = card["mechanisms"]
    assert (mechanism["count"], mechanism["sample_rate"]) == (1, 1.0)
    assert mechanism["name"] == "Gaussian noise on second moment, class sums and class counts of the features"


def test_every_statistic_is_released_with_noise(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head is computed from what the mechanism made of the exact statistics, and from nothing else."""
    exact: dict[str, Tensor] = {}
    noisy: dict[str, Tensor] = {}

    def exactly(*arguments: Any) -> dict[str, Tensor]:
        exact.update(sufficient_statistics(*arguments))
        return exact

    def solve(
        statistics: dict[str, Tensor], num_examples: int, noise: float, class_weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        noisy.update(statistics, scale=torch.tensor(noise))
        return ridge(statistics, num_examples, noise, class_weights)

    monkeypatch.setattr(dp_ridge, "sufficient_statistics", exactly)
    monkeypatch.setattr(dp_ridge, "ridge", solve)
    dpvision.train(images, out=tmp_path / "run", config=SMALL, **OPTIONS)
    for name, total in exact.items():
        assert (noisy[name] != total).all()
    noise = torch.cat([(noisy[name] - total).flatten() for name, total in exact.items()])
    assert float(noise.std()) == pytest.approx(float(noisy["scale"]), rel=0.05)


def test_the_head_tells_of_the_images_what_was_released_and_nothing_else(images: Images) -> None:
    """With the same numbers released, one image less makes the same head."""
    method, config, public = DPRidge(), DPRidgeConfig(**SMALL), facts_of(images)
    stages = uncalibrated(method, config, public, 1.0)
    released: dict[str, Tensor] = {}
    heads = []
    for of in (images, images.subset(range(1, 300))):
        account = Account(Budget(1e6, 1e-5), None, "run", stages.events)
        account.open()
        session = Session(of, public, stages, lambda account=account: account, SeededRandom(0), CPU)
        learned = method.learn(config, session)
        released = released or dict(learned.tensors)
        finished = method.finish(config, replace(learned, tensors=released), public, Workplace(CPU))
        heads.append(finished.model.state_dict())
    assert all(torch.equal(tensor, heads[1][name]) for name, tensor in heads[0].items())


def test_a_release_that_was_kept_is_not_paid_twice(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(dp_ridge, "ridge", interrupt)
        with pytest.raises(KeyboardInterrupt):
            dpvision.train(images, out=tmp_path / "run", config=SMALL, seed=1, **OPTIONS)
    with monkeypatch.context() as patched:
        patched.setattr(dp_ridge, "sufficient_statistics", interrupt)
        resumed = dpvision.resume(tmp_path / "run", data=images)
    whole = dpvision.train(images, out=tmp_path / "whole", config=SMALL, seed=1, **OPTIONS)
    assert resumed.epsilon == whole.epsilon
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def test_a_release_that_was_lost_is_not_drawn_again(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("dpvision.runs.FileCheckpoints.save", lose)
        with pytest.raises(KeyboardInterrupt):
            dpvision.train(images, out=tmp_path / "run", config=SMALL, **OPTIONS)
    with pytest.raises(InputError, match="was paid for but lost"):
        dpvision.resume(tmp_path / "run", data=images)


def test_settings_and_their_estimate() -> None:
    public = (facts(300, (3, 16, 16)), Budget(1.0, 1e-3), CPU)
    config = DPRidge().default_config(*public, {"encoder": "scattering", "encoder_options": {"cells": 1}})
    assert (config.encoder, config.mirror) == ("scattering", True)
    assert DPRidge().estimate(config, public[0], CPU).seconds > 0
    with pytest.raises(InputError, match="no setting 'steps'"):
        DPRidge().default_config(*public, {"steps": 3})


def test_counts_have_the_weight_that_the_ratio_needs() -> None:
    assert COUNT_WEIGHT >= 0.5


def test_rounding_among_many_examples_stays_within_the_margin() -> None:
    """One example less at the front moves all others, and so the rounding of every partial sum."""
    count, generator = 400_000, torch.Generator().manual_seed(0)
    features = torch.ones(count, 64) + 0.01 * torch.randn(count, 64, generator=generator)
    features /= features.norm(dim=1, keepdim=True)
    labels = torch.zeros(count, dtype=torch.int64)
    with_it = sufficient_statistics(features, labels, 2)
    without = sufficient_statistics(features[1:], labels[1:], 2)
    squares = sum(float((with_it[name] - without[name]).double().square().sum()) for name in with_it)
    assert squares**0.5 <= SENSITIVITY
