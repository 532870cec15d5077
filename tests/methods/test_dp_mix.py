"""DP-Mix as methods: from options to a release, under the account of plain DP-SGD."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dpvision
from dpvision.images import Images
from dpvision.methods import find_method
from dpvision.methods.dp_sgd import DPSGDConfig
from dpvision.privacy import Budget, InputError
from dpvision.views import DPMix, SelfAugmentation
from tests.methods.learning import CPU, calibrated, facts

NAMES = ("left", "right")
BUDGET = Budget(8.0, 1e-3)
SMALL = {"network": "linear", "steps": 4, "expected_batch_size": 40}
FEW_VIEWS = {"augmult": 3, "pad": 1, "k_self": 2}
OPTIONS: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-3}


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(120)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Four public images of each class."""
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (8, 16, 16), dtype=np.uint8)):
        place = tmp_path / "pool" / NAMES[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index}.png")
    return tmp_path / "pool"


def test_the_defaults_are_the_papers_views(pool: Path) -> None:
    public = (facts(1000, (3, 16, 16)), BUDGET, CPU)
    self_config, diff_config = (find_method(f"dp-mix-{kind}").default_config for kind in ("self", "diff"))
    config = self_config(*public, {"steps": 3})
    assert (config.augmult, config.k_self, config.alpha, config.k_diff) == (16, 18, 0.2, 0)
    assert (config.pad, config.flip) == (2, True)
    config = diff_config(*public, {"steps": 3, "pool": str(pool)})
    assert (config.augmult, config.k_self, config.k_diff) == (16, 18, 2)
    assert self_config(*public, {"steps": 3, "k_self": 5}).k_self == 5
    with pytest.raises(InputError, match="name a pool of them"):
        diff_config(*public, {"steps": 3})


def test_the_account_is_that_of_plain_dp_sgd(pool: Path) -> None:
    """Whatever the views are, one example has one clipped gradient."""
    plans = []
    for name, views in (
        ("dp-sgd", {}),
        ("dp-mix-self", {}),
        ("dp-mix-diff", {"pool": str(pool)}),
        ("dp-mix-diff", {"pool": str(pool), "augmult": 2, "k_diff": 5, "base_in_mean": False}),
    ):
        method, public = find_method(name), facts(120, (1, 16, 16))
        config = method.default_config(public, BUDGET, CPU, SMALL | views)
        plans.append(calibrated(method, config, public, BUDGET))
    assert len({(plan.noise_multiplier, plan.epsilon, plan.events) for plan in plans}) == 1
    assert {stage.mechanism.sensitivity for plan in plans for stage in plan.stages} == {16.0}


def test_settings_make_the_policy_that_they_name(pool: Path) -> None:
    config = DPSGDConfig(
        **SMALL, learning_rate=1.0, **FEW_VIEWS, alpha=0.5, color_jitter=0.1, cutout=2, smallest_crop=0.5
    )
    policy = config.views(None)
    assert isinstance(policy, DPMix)
    augmentation = SelfAugmentation(3, 1, flip=False, color_jitter=0.1, cutout=2, smallest_crop=0.5)
    assert policy.augmentation == augmentation
    assert (policy.k_self, policy.alpha, policy.pool) == (2, 0.5, None)
    plain = DPSGDConfig(**SMALL, learning_rate=1.0, augmult=3)
    assert plain.views(None) == SelfAugmentation(3, 0, flip=False)
    with pytest.raises(InputError, match="k_diff needs public images"):
        DPSGDConfig(**SMALL, learning_rate=1.0, k_diff=2)
    with pytest.raises(InputError, match="two views to mix"):
        DPSGDConfig(**SMALL, learning_rate=1.0, k_self=2)


@pytest.mark.parametrize("method", ["dp-mix-self", "dp-mix-diff"])
def test_training_learns_and_the_card_names_the_pool(
    images: Images, pool: Path, tmp_path: Path, method: str
) -> None:
    train, test = images.subset(range(100)), images.subset(range(100, 120))
    diff = method == "dp-mix-diff"
    config = FEW_VIEWS | {"network": "linear", "steps": 25, "expected_batch_size": 100, "learning_rate": 0.5}
    config |= {"pool": str(pool)} if diff else {}
    result = dpvision.train(
        train, test=test, method=method, epsilon=50, delta=1e-3, config=config, out=tmp_path / "run"
    )
    assert result.test_accuracy is not None
    assert result.test_accuracy.value > 0.8
    card = json.loads((result.release / "card.json").read_text())
    text = (result.release / "card.md").read_text()
    assert card["method"] == method
    assert (card["pool"] is not None) == diff == ("mixed with 8 public ones" in text)
    if diff:
        assert card["pool"]["digest"] in text


def test_mixing_changes_what_is_learned(images: Images, tmp_path: Path) -> None:
    """With the same seed: mixtures enter the gradient, and each ablation is another one."""
    found = []
    for index, views in enumerate(
        ({"k_self": 0}, {}, {"alpha": 2.0}, {"base_in_mean": False}, {"k_self": 7})
    ):
        result = dpvision.train(
            images,
            method="dp-mix-self",
            config=SMALL | FEW_VIEWS | views,
            out=tmp_path / f"{index}",
            seed=1,
            **OPTIONS,
        )
        found.append(torch.cat([tensor.flatten() for tensor in result.model.state_dict().values()]))
    for index, weights in enumerate(found):
        for other in found[:index]:
            assert not torch.equal(weights, other)


def test_an_interrupted_run_mixes_on_as_it_would_have(images: Images, pool: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"method": "dp-mix-diff", "seed": 3}
    options["config"] = SMALL | FEW_VIEWS | {"pool": str(pool)}
    whole = dpvision.train(images, out=tmp_path / "whole", **options)

    def interrupt(what: str, done: int, total: int, account: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dpvision.train(images, out=tmp_path / "cut", progress=interrupt, **options)
    extra = pool / "left" / "extra.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(extra)
    with pytest.raises(InputError, match="have changed; restore them"):
        dpvision.resume(tmp_path / "cut", data=images)
    extra.unlink()
    resumed = dpvision.resume(tmp_path / "cut", data=images)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def test_a_private_image_in_the_pool_is_refused_before_anything_is_spent(
    images: Images, pool: Path, tmp_path: Path
) -> None:
    Image.fromarray(images.pixels[7, 0].numpy()).save(pool / "right" / "own.png")
    with pytest.raises(InputError, match="1 of the 9 images of the pool"):
        dpvision.train(
            images, method="dp-mix-diff", config=SMALL | {"pool": str(pool)}, out=tmp_path / "run", **OPTIONS
        )
    assert not (tmp_path / "run").exists()


def test_a_pool_that_somebody_keeps_private_is_refused(images: Images, pool: Path, tmp_path: Path) -> None:
    """Its ledger says so: these images were trained on under a budget."""
    theirs = SMALL | {"expected_batch_size": 4}
    dpvision.train(pool, method="dp-sgd", config=theirs, out=tmp_path / "others", **OPTIONS)
    with pytest.raises(InputError, match="is a private data set, with the ledger"):
        dpvision.train(
            images, method="dp-mix-diff", config=SMALL | {"pool": str(pool)}, out=tmp_path / "run", **OPTIONS
        )
    assert not (tmp_path / "run").exists()


def test_views_are_for_the_head_of_a_frozen_encoder_too(images: Images, pool: Path, tmp_path: Path) -> None:
    """Features of the views are computed in every step, and the encoder stays as it was."""
    encoder = {"encoder": "random-wrn-10-1", "phase_ii": "sampled", "steps": 3, "expected_batch_size": 30}
    weights = []
    for index, views in enumerate(({}, FEW_VIEWS, FEW_VIEWS | {"pool": str(pool), "k_diff": 1})):
        result = dpvision.train(
            images,
            method="dp-randp",
            config=encoder | views,
            out=tmp_path / f"{index}",
            seed=1,
            **OPTIONS,
        )
        weights.append(result.model.state_dict())
        assert "was not trained on the private images" in (result.release / "card.md").read_text()
    for name in weights[0]:
        for other in weights[1:]:
            assert torch.equal(weights[0][name], other[name]) == ("head" not in name)
    with pytest.raises(InputError, match="views need phase_ii = sampled or a Phase III"):
        dpvision.train(
            images,
            method="dp-randp",
            config=encoder | FEW_VIEWS | {"phase_ii": "features"},
            out=tmp_path / "no",
            **OPTIONS,
        )


def test_views_are_for_phase_iii_too(images: Images, pool: Path, tmp_path: Path) -> None:
    config = {"encoder": "random-wrn-10-1", "phase_iii": "full", "steps": 4, "expected_batch_size": 30}
    config |= FEW_VIEWS | {"pool": str(pool), "k_diff": 1}
    result = dpvision.train(images, method="dp-randp", config=config, out=tmp_path / "run", **OPTIONS)
    assert json.loads((result.release / "card.json").read_text())["pool"]["images"] == 8
