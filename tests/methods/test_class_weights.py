"""Classes that count otherwise than by their images: what is released, what it does, what is refused."""

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

import dpvision
from dpvision.evaluation import accuracy, evaluate_classifier
from dpvision.images import Images
from dpvision.methods import Learned, Method, Workplace, find_method, known_methods, setting_types
from dpvision.methods.class_weights import (
    REPLACE_ONE_RATIO,
    ROUNDING_MARGIN,
    SENSITIVITY,
    class_counts,
    smoothed,
)
from dpvision.methods.tuned import images_right
from dpvision.networks import Classifier
from dpvision.privacy import Budget, InputError, SecureRandom, default_ledger_path
from tests.methods.learning import CPU, calibrated, facts_of, learned, session_on, uncalibrated
from tests.methods.test_session import Memory

BUDGET = Budget(8.0, 1e-3)
STEPS = {
    "steps": 4,
    "expected_batch_size": 20,
    "learning_rate": 0.5,
    "precision": "float32",
    "engine": "by-size",
}
PIXELS = {"encoder": "pixels", "encoder_options": {"size": 4}}
SETTINGS: dict[str, dict[str, Any]] = {
    "dp-sgd": STEPS | {"network": "linear"},
    "dp-mix-self": STEPS | {"network": "linear"},
    "dp-randp": STEPS | PIXELS,
    "dp-ridge": PIXELS,
}
WEIGHTS = {"left": 1.0, "right": 3.0}
WITH_COUNTS = ["dp-sgd", "dp-mix-self", "dp-randp"]
"""The methods that release counts for nothing but the weights."""


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    """60 of each class, of which few of the second are kept."""
    every = left_or_right(120)
    return every.subset([index for index in range(120) if index % 2 == 0 or index % 12 == 1])


def config_of(method: Method, images: Images, **more: Any) -> Any:
    return method.default_config(facts_of(images), BUDGET, CPU, SETTINGS[method.name] | more)


def finished(name: str, images: Images, of: Learned | None = None, **more: Any) -> tuple[Classifier, Any]:
    """The classifier of a seeded run, or of what was learned, and the card."""
    method = find_method(name)
    config = config_of(method, images, **more)
    of = of or learned(method, config, images, BUDGET)
    made = method.finish(config, of, facts_of(images), Workplace(CPU))
    assert isinstance(made.model, Classifier)
    return made.model.eval(), made.card


def train(images: Images, out: Path, name: str, **more: Any) -> Any:
    config = SETTINGS[name] | more
    return dpvision.train(images, method=name, epsilon=8.0, delta=1e-3, config=config, seed=1, out=out)


# What is released ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_COUNTS)
def test_counts_are_one_release_more_at_their_share_of_the_budget(name: str, images: Images) -> None:
    method, public = find_method(name), facts_of(images)
    for share in (0.02, 0.2):
        config = config_of(method, images, class_weight="balanced", class_count_share=share)
        plan = calibrated(method, config, public, BUDGET)
        *others, counts = plan.stages
        assert 0.98 * BUDGET.epsilon <= plan.epsilon <= BUDGET.epsilon
        assert (counts.count, counts.mechanism.sensitivity) == (1, SENSITIVITY)
        assert (counts.event.sample_rate, counts.event.replace_one_ratio) == (1.0, REPLACE_ONE_RATIO)
        assert len(others) == len(method.stages(replace(config, class_weight="none"), public, 1.0))
        spent = [
            stage.count * (stage.event.sample_rate / stage.event.noise_multiplier) ** 2
            for stage in plan.stages
        ]
        assert spent[-1] / sum(spent) == pytest.approx(share)


@pytest.mark.parametrize("name", SETTINGS)
def test_public_weights_and_those_of_ridge_release_nothing_more(name: str, images: Images) -> None:
    method, public = find_method(name), facts_of(images)
    plain = method.stages(config_of(method, images), public, 1.0)
    assert method.stages(config_of(method, images, class_weight=WEIGHTS), public, 1.0) == plain
    balanced = method.stages(config_of(method, images, class_weight="balanced"), public, 1.0)
    assert (balanced == plain) == (name == "dp-ridge")


@pytest.mark.parametrize("name", WITH_COUNTS)
def test_counts_are_released_with_their_noise(name: str, images: Images) -> None:
    """All that the finished classifier has of the classes' sizes."""
    method, public = find_method(name), facts_of(images)
    alone = {"calibration_share": 0.0} if name == "dp-randp" else {}  # which takes 50 steps of its own
    config = config_of(method, images, class_weight="balanced", steps=1, **alone)
    stages, errors = uncalibrated(method, config, public, 2.0), []
    noise = stages.stages[-1].mechanism.standard_deviation  # type: ignore[attr-defined]
    exact = torch.tensor([60.0, 10.0])
    for _ in range(50):
        session, account = session_on(images, stages, BUDGET, random=SecureRandom())
        counts = method.learn(config, session).facts["class_counts"]
        assert set(account.spent) == set(stages.events)
        assert counts["noise"] == noise
        errors.append((torch.tensor(counts["noisy"]) - exact) / noise)
    of_all = torch.cat(errors)
    assert (of_all != 0).all()
    assert float(of_all.std()) == pytest.approx(1.0, abs=0.25)
    assert abs(float(of_all.mean())) < 0.4


@pytest.mark.parametrize("name", SETTINGS)
def test_the_classifier_tells_of_the_images_what_was_released_and_nothing_else(
    name: str, images: Images
) -> None:
    """With the same numbers released, other images make the same classifier and the same card."""
    method = find_method(name)
    found = learned(method, config_of(method, images, class_weight="balanced"), images, BUDGET)
    others = replace(images, labels=images.labels.flip(0))  # type: ignore[union-attr]
    model, card = finished(name, images, found, class_weight="balanced")
    again, card_again = finished(name, others, found, class_weight="balanced")
    assert torch.equal(model(images.pixels), again(images.pixels))
    assert card == card_again


def test_a_run_taken_up_after_the_counts_has_them_and_pays_no_second_time(images: Images) -> None:
    method, memory = find_method("dp-randp"), Memory()
    config = config_of(method, images, class_weight="balanced")
    stages = calibrated(method, config, facts_of(images), BUDGET)
    first, account = session_on(images, stages, BUDGET, checkpoints=memory, random=SecureRandom())
    before = method.learn(config, first)
    assert set(account.spent) == set(stages.events)
    resumed, account = session_on(images, stages, BUDGET, checkpoints=memory, random=SecureRandom())
    after = method.learn(config, resumed)
    assert account.spent == ()
    assert after.facts == before.facts
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())


def test_rounding_among_many_units_stays_within_the_margin() -> None:
    """Shares of thirds, sevenths, …: one unit less at the front moves every partial sum."""
    sizes = torch.tensor([3, 7, 49, 1000, 6, 11]).repeat(2000)
    shares = sizes.double().reciprocal().repeat_interleave(sizes)
    labels = torch.zeros(len(shares), dtype=torch.int64)
    moved = class_counts(labels, 2, shares) - class_counts(labels[3:], 2, shares[3:])
    assert 1 - 2 * ROUNDING_MARGIN <= float(moved.norm()) <= SENSITIVITY


# What it does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_none_is_the_default_and_changes_nothing(name: str, images: Images) -> None:
    model, card = finished(name, images)
    same, _ = finished(name, images, class_weight="none")
    assert model.offsets is None
    assert "offsets" not in (model.config or {})
    assert "class_weight" not in card
    assert torch.equal(model(images.pixels), same(images.pixels))
    assert torch.equal(model(images.pixels), model.network(model.normalize(images.pixels)))


@pytest.mark.parametrize("name", WITH_COUNTS)
def test_public_weights_add_their_logarithms_to_the_logits(name: str, images: Images) -> None:
    plain, _ = finished(name, images)
    model, card = finished(name, images, class_weight=WEIGHTS)
    moved = model(images.pixels) - plain(images.pixels)
    assert torch.allclose(moved, torch.tensor([0.0, math.log(3)]).expand_as(moved), atol=1e-6)
    assert card["class_weight"] == {"weights": WEIGHTS, "noisy_shares": None}


@pytest.mark.parametrize("name", WITH_COUNTS)
def test_balanced_divides_probabilities_by_the_noisy_shares(name: str, images: Images) -> None:
    method = find_method(name)
    found = learned(method, config_of(method, images, class_weight="balanced"), images, BUDGET)
    model, card = finished(name, images, found, class_weight="balanced")
    plain, _ = finished(name, images, replace(found, facts={}))
    counts = found.facts["class_counts"]
    shares = smoothed(torch.tensor(counts["noisy"]), counts["noise"])
    shares /= shares.sum()
    odds = plain(images.pixels).double().softmax(dim=1) / shares
    expected = odds / odds.sum(dim=1, keepdim=True)
    assert torch.allclose(model(images.pixels).double().softmax(dim=1), expected, atol=1e-6)
    assert list(card["class_weight"]["noisy_shares"].values()) == pytest.approx(shares.tolist(), rel=1e-3)


def test_shares_are_above_zero_and_the_nearer_to_equal_the_more_noise_there_is() -> None:
    counts = torch.tensor([900.0, 90.0, -30.0])
    shares = [found / found.sum() for found in (smoothed(counts, noise) for noise in (0.1, 30.0, 1000.0))]
    assert all((found > 0).all() for found in shares)
    spread = [float(found.max() / found.min()) for found in shares]
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] < 2
    assert torch.allclose(shares[0], torch.tensor([0.909, 0.091, 0.0]).double(), atol=1e-3)


@pytest.mark.parametrize("name", ["dp-sgd", "dp-randp", "dp-ridge"])
def test_rare_images_are_found(name: str, left_or_right: Callable[[int], Images]) -> None:
    """One in eleven, under noise, with the default settings."""
    every, generator = left_or_right(2500), torch.Generator().manual_seed(1)
    noise = torch.randint(219, every.pixels.shape, generator=generator).to(torch.uint8)
    every = replace(every, pixels=every.pixels // 8 + noise)
    few = every.subset([index for index in range(2000) if index % 2 == 0 or index % 20 == 1])
    test, budget, method = every.subset(range(2000, 2500)), Budget(2.0, 1e-4), find_method(name)
    recalls = []
    for class_weight in ("none", "balanced", {"left": 1.0, "right": 10.0}):
        given = {"dp-sgd": {"network": "linear"}}.get(name, PIXELS) | {"class_weight": class_weight}
        if name != "dp-ridge":
            given |= {"engine": "by-size"}
        config = method.default_config(facts_of(few), budget, CPU, given)
        found = learned(method, config, few, budget)
        model = method.finish(config, found, facts_of(few), Workplace(CPU)).model
        assert isinstance(model, Classifier)
        recalls.append(evaluate_classifier(model.eval(), test).balanced_accuracy.value)
    plain, *weighted = recalls
    assert min(weighted) > plain + 0.05


# Where it goes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("class_weight", ["balanced", WEIGHTS])
def test_the_release_has_it(name: str, class_weight: Any, images: Images, tmp_path: Path) -> None:
    result = train(images, tmp_path / "run", name, class_weight=class_weight)
    card = json.loads((result.release / "card.json").read_text())
    assert result.epsilon <= 8.0
    assert list(card["class_weight"]["weights"]) == ["left", "right"]
    text = (result.release / "card.md").read_text()
    assert ("equally frequent" in text) == (class_weight == "balanced")
    again = dpvision.load(result.release)
    assert isinstance(again, Classifier)
    assert torch.equal(again(images.pixels), result.model(images.pixels))
    predicted = [one.probabilities for one in dpvision.predict(result.release, images)]
    expected = again(images.pixels).double().softmax(dim=1)
    np.testing.assert_allclose([list(one.values()) for one in predicted], expected.detach(), atol=1e-6)


def test_plain_releases_are_those_of_before(images: Images, tmp_path: Path) -> None:
    """Files know nothing of offsets, so that older ones load and older versions load these."""
    result = train(images, tmp_path / "run", "dp-randp")
    config = json.loads((result.release / "config.json").read_text())
    assert set(config) == {"network", "encoder", "class_names", "mirror", "head", "feature_norm"}
    assert "class_weight" not in json.loads((result.release / "card.json").read_text())


@pytest.mark.parametrize("name", WITH_COUNTS)
def test_the_score_of_a_trial_is_of_the_weighted_classifier(name: str, images: Images) -> None:
    model, _ = finished(name, images)
    assert images_right(model, images) == accuracy(model, images).correct != 10
    model.shift([0.0, 1e6])
    assert images_right(model, images) == accuracy(model, images).correct == 10


def test_a_tuned_run_counts_the_classes_in_every_trial(images: Images, tmp_path: Path) -> None:
    result = dpvision.tune(
        images, method="dp-randp", epsilon=8.0, delta=1e-3, seed=1, out=tmp_path / "run", trials=2.0,
        config=SETTINGS["dp-randp"] | {"class_weight": "balanced"}, search={"ema_decay": [0.5, 0.9]},
    )  # fmt: skip
    card = json.loads((result.release / "card.json").read_text())
    assert set(card["class_weight"]["noisy_shares"]) == {"left", "right"}
    assert result.model.offsets is not None


# What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    ("class_weight", "said"),
    [
        ("equal", "class_weight must be none, balanced or a weight for each class, not equal"),
        (3.0, "class_weight takes a name or a table, not 3.0"),
        ({"left": 1.0, "up": 2.0}, "class_weight: there is no class 'up'; there are left, right"),
        ({"left": 1.0}, "class_weight: class 'right' has no weight; give every class one"),
        ({}, "class_weight: class 'left' has no weight"),
        (
            {"left": 1.0, "right": 0.0},
            "class_weight of right must be a number from 1e-09 to 1e\\+09, not 0.0",
        ),
        ({"left": -1.0, "right": 2.0}, "class_weight of left must be a number from"),
        ({"left": math.nan, "right": 2.0}, "class_weight of left must be a number from"),
        ({"left": math.inf, "right": 2.0}, "class_weight of left must be a number from"),
        ({"left": 10**400, "right": 2.0}, "class_weight of left must be a number from"),
        ({"left": "much", "right": 2.0}, "class_weight of left must be a number from"),
        ({"left": True, "right": 2.0}, "class_weight of left must be a number from"),
    ],
)
def test_wrong_weights_are_refused_and_nothing_is_spent(
    name: str, class_weight: Any, said: str, images: Images, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        train(images, tmp_path / "run", name, class_weight=class_weight)
    assert not default_ledger_path(images.digest).exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_a_share_that_leaves_nothing_is_refused(share: float, images: Images) -> None:
    with pytest.raises(InputError, match=r"class_count_share must be at least 1e-06 and at most"):
        config_of(find_method("dp-sgd"), images, class_count_share=share)


def test_every_classifier_has_the_setting() -> None:
    for name in known_methods():
        method = find_method(name)
        assert ("class_weight" in setting_types(method.config_class)) == (method.makes == "a classifier")
