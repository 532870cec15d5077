"""Every method learns from images that stay on disk what it learns from those in memory, to the bit, and
holds few at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpvision
from dpvision.api.using import predictions
from dpvision.evaluation.accuracy import IMAGES_AT_A_TIME, accuracy
from dpvision.evaluation.downstream import train_and_test
from dpvision.evaluation.features import image_features
from dpvision.evaluation.membership import confidences
from dpvision.evaluation.resnet9_training import ResNet9Training
from dpvision.evaluation.worst_images import WorstImages
from dpvision.images import Images
from dpvision.methods import Workplace, find_method, known_methods
from dpvision.networks import Classifier
from dpvision.priors import build_encoder
from dpvision.privacy import Budget, SeededRandom
from dpvision.views import open_pool
from tests.images.on_disk import OnDisk
from tests.methods.learning import CPU, calibrated, facts_of, session_on

BUDGET = Budget(8.0, 1e-3)
COUNT, MOST = 700, 256
STEPS: dict[str, Any] = {"steps": 2, "expected_batch_size": 500}
ENCODER: dict[str, Any] = {"encoder": "random-wrn-10-1"}
DENOISED: dict[str, Any] = {"width": 8, "noise_levels": 1, "pretraining_steps": 1, "warm_up_steps": 1}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("dp-sgd", STEPS | {"network": "linear"}),
    ("dp-mix-self", STEPS | {"network": "linear", "augmult": 2, "k_self": 1}),
    ("dp-mix-diff", STEPS | {"network": "linear", "augmult": 2, "k_self": 1, "k_diff": 1}),
    ("dp-randp", {"encoder": "scattering", "steps": 2}),
    ("dp-randp", STEPS | ENCODER | {"phase_iii": "full", "phase_ii_share": 0.5, "augmult": 1}),
    ("dp-ridge", ENCODER),
    ("dp-mepf", {"steps": 1, "batch_size": 4, "encoder": "pixels", "encoder_options": {"size": 4}}),
    ("dp-moments", {"size": 4}),
    ("dp-diffusion", STEPS | DENOISED),
    (
        "dp-distill",
        {"teacher": {"encoder": "scattering", "steps": 2}, "moments": {"size": 4}, "candidates": 1},
    ),
]


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(COUNT)


@pytest.fixture
def on_disk(images: Images, tmp_path: Path) -> OnDisk:
    return OnDisk(tmp_path / "pixels", images)


def test_every_method_is_tried() -> None:
    assert {name for name, _ in CASES} == known_methods().keys()


@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_it_learns_the_same(
    name: str, overrides: dict[str, Any], images: Images, on_disk: OnDisk, tmp_path: Path
) -> None:
    method, facts = find_method(name), facts_of(images)
    pool = None
    if "k_diff" in overrides:
        np.savez(tmp_path / "pool.npz", images=images.pixels[:6].numpy().squeeze(1) // 2)
        pool = open_pool(tmp_path / "pool.npz", images.shape, images.class_names)
        overrides = overrides | {"pool": str(tmp_path / "pool.npz")}
    config = method.default_config(facts, BUDGET, CPU, overrides)
    stages = calibrated(method, config, facts, BUDGET)
    expected, found = (
        method.learn(config, session_on(some, stages, BUDGET, random=SeededRandom(1), pool=pool)[0])
        for some in (images, on_disk)
    )
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(tensor, expected.tensors[key]) for key, tensor in found.tensors.items())
    assert 0 < on_disk.largest <= MOST


def trained(images: Images) -> Classifier:
    method, facts = find_method("dp-sgd"), facts_of(images)
    config = method.default_config(facts, BUDGET, CPU, STEPS | {"network": "linear"})
    learned = method.learn(config, session_on(images, calibrated(method, config, facts, BUDGET), BUDGET)[0])
    model = method.finish(config, learned, facts, Workplace(CPU)).model
    assert isinstance(model, Classifier)
    return model


def test_it_is_evaluated_the_same(images: Images, on_disk: OnDisk) -> None:
    model, encoder = trained(images), build_encoder("random-wrn-10-1", images.shape)
    assert accuracy(model, on_disk) == accuracy(model, images)
    assert np.array_equal(confidences(model, on_disk), confidences(model, images))
    assert torch.equal(image_features(on_disk, encoder), image_features(images, encoder))
    few = ResNet9Training(steps=2, batch_size=16, width=4)
    found, expected = (train_and_test("resnet9", some, images, resnet9=few) for some in (on_disk, images))
    assert found == expected
    assert on_disk.largest <= 1024


def test_worst_images_are_added_the_same(images: Images, on_disk: OnDisk) -> None:
    method, facts = find_method("dp-ridge"), facts_of(images)
    config = method.default_config(facts, BUDGET, CPU, ENCODER)
    stages = calibrated(method, config, facts, BUDGET)
    shares = []
    for some in (images, on_disk):
        watch = WorstImages(some)
        method.learn(config, session_on(some, stages, BUDGET, watch=watch)[0])
        shares.append(watch.largest)
    assert shares[0] == shares[1]
    assert on_disk.largest <= MOST


def test_all_that_users_call_takes_them(images: Images, on_disk: OnDisk, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epsilon": 8.0, "method": "dp-sgd", "config": STEPS | {"network": "linear"}}
    others = replace(images, pixels=images.pixels ^ 1).subset(range(20))
    test = OnDisk(tmp_path / "test", others)
    assert dpvision.plan(on_disk, **options).num_examples == COUNT
    found = dpvision.train(on_disk, test=test, out=tmp_path / "run", seed=1, **options)
    expected = dpvision.train(images, test=others, out=tmp_path / "other", seed=1, **options)
    assert found.test_accuracy == expected.test_accuracy
    assert (found.release / "card.json").read_bytes() != b""
    assert dpvision.evaluate(tmp_path / "run", on_disk).accuracy == accuracy(found.model, images)
    assert len(dpvision.predict(tmp_path / "run", test)) == 20
    one_by_one = predictions(tmp_path / "run", on_disk)
    on_disk.taken = 0
    first = next(one_by_one)
    assert 0 < on_disk.taken <= IMAGES_AT_A_TIME
    assert [first, *one_by_one] == dpvision.predict(tmp_path / "run", images)
    assert dpvision.membership(tmp_path / "run", on_disk, test).members == COUNT
    audited = dpvision.audit(on_disk, canary_kind="images", canaries=20, seed=0, **options)
    assert not audited.refuted
    fit = next(settings for method, settings in CASES if method == "dp-mepf")
    given: dict[str, Any] = {"epsilon": 8.0, "method": "dp-mepf", "config": fit, "count": 3}
    assert dpvision.synthesize(on_disk, out=tmp_path / "made", **given).count == 3
    assert on_disk.largest <= 1024
