"""The scale of a head's logits: what it is learned from, what it comes to, and what it costs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.images import Images
from dpvision.methods import calibration
from dpvision.methods.calibration import LeftOut, Scale, logits_and_features, logits_and_squares, way
from dpvision.methods.dp_randp import CALIBRATION_SHARE, DPRandP, DPRandPConfig
from dpvision.methods.gradient_descent import GradientSettings, images_over_noise
from dpvision.privacy import Budget, InputError, PublicFacts, SeededRandom
from tests.methods.learning import CPU, calibrated, facts, facts_of, learned

BUDGET = Budget(8.0, 1e-5)
SIDE = 8  # pixels


def descent(steps: int = 60, **others: object) -> GradientSettings:
    chosen = {"learning_rate": 1.0, "max_grad_norm": 0.4, "momentum": 0.9, **others}
    return GradientSettings(steps=steps, expected_batch_size=1, **chosen)


def descended(features: Tensor, labels: Tensor, settings: GradientSettings, count: int) -> nn.Linear:
    """The head of clipped steps without noise, written down anew. The mean is over ``count`` examples."""
    weights = torch.zeros(int(labels.max()) + 1, features.shape[1])
    update = torch.zeros_like(weights)
    for _ in range(settings.steps):
        residuals = (features @ weights.T).softmax(dim=1) - F.one_hot(labels, len(weights))
        gradients = residuals.unsqueeze(2) * features.unsqueeze(1)
        norms = gradients.flatten(1).norm(dim=1).reshape(-1, 1, 1)
        gradients *= (settings.max_grad_norm / norms).clamp(max=1)
        update = settings.momentum * update + gradients.sum(dim=0) / count
        weights = weights - settings.learning_rate * update
    head = nn.Linear(features.shape[1], len(weights), bias=False)
    head.weight = nn.Parameter(weights)
    return head


def left_out_logits(
    head: nn.Linear, features: Tensor, labels: Tensor, settings: GradientSettings, count: int
) -> Tensor:
    draws = SeededRandom(0).by_example().of(torch.arange(len(features)))
    policy = LeftOut(settings, head.in_features, count)
    return policy(logits_and_squares(head, features), labels, draws)[0].squeeze(1)


def some_features(count: int, size: int = 30, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = F.normalize(torch.randn(count, size, generator=generator))
    logits = 8 * features @ torch.randn(size, classes, generator=generator)
    return features, torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("size", "classes"), [(16, 2), (30, 3), (301, 10), (64, 100)])
def test_what_is_said_of_an_image_depends_on_no_other(bias: bool, size: int, classes: int) -> None:
    features, labels = some_features(101, size, classes)
    head = nn.Linear(size, classes, bias=bias)
    found = left_out_logits(head, features, labels, descent(), 101)
    numbers = torch.arange(101)
    for kept in (numbers != 0, numbers != 40, numbers < 33, numbers < 12, numbers == 7):
        again = left_out_logits(head, features[kept], labels[kept], descent(), 101)
        assert torch.equal(again, found[kept])
    others = labels.clone()
    others[5] = (others[5] + 1) % classes
    changed = left_out_logits(head, features, others, descent(), 101) != found
    assert changed.any(dim=1).nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize(("count", "size", "rate"), [(60, 300, 0.5), (100, 30, 0.3)])
def test_it_is_about_what_a_head_says_that_has_not_seen_the_image(count: int, size: int, rate: float) -> None:
    """Against heads that learned without it: one for each image."""
    features, labels = some_features(count, size)
    settings = descent(learning_rate=rate)
    head = descended(features, labels, settings, count)
    without = torch.stack(
        [
            descended(features[kept], labels[kept], settings, count)(features[~kept]).squeeze(0)
            for kept in (torch.arange(count) != index for index in range(count))
        ]
    ).detach()
    seen = head(features).detach()
    found = left_out_logits(head, features, labels, settings, count)
    assert (found - without).square().mean() < 0.5 * (seen - without).square().mean()


def test_less_is_left_of_an_images_own_steps_where_others_take_it_back() -> None:
    ways = torch.tensor([0.01, 1.0, 100.0, 10_000.0])
    shares = calibration.kept(ways, 2).tolist()
    assert shares[0] == pytest.approx(calibration.KEPT, rel=0.01)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.001
    assert bool((calibration.kept(ways, 100) > calibration.kept(ways, 2)).all())


@pytest.mark.parametrize("length", [0.25, 4.0])
def test_the_length_of_features_changes_nothing_where_rate_and_clipping_follow_it(length: float) -> None:
    features, labels = some_features(50)
    head = nn.Linear(30, 3, bias=False)
    found = left_out_logits(head, features, labels, descent(), 50)
    scaled = nn.Linear(30, 3, bias=False)
    scaled.weight = nn.Parameter(head.weight / length)
    settings = descent(learning_rate=1.0 / length**2, max_grad_norm=0.4 * length)
    assert torch.allclose(found, left_out_logits(scaled, length * features, labels, settings, 50), atol=1e-5)


def test_the_way_is_that_of_the_optimiser() -> None:
    """A gradient that is always one moves a weight so far, but for the last steps' momentum."""
    for settings in (descent(1000), descent(1000, momentum=0.0), descent(1000, schedule="linear")):
        weight = nn.Parameter(torch.zeros(1))
        phase = settings.phase()
        optimizer = torch.optim.SGD([weight], lr=1.0, momentum=phase.momentum)
        for step in range(phase.steps):
            factor = 1 - step / phase.steps if phase.schedule == "linear" else 1.0
            optimizer.param_groups[0]["lr"] = phase.learning_rate * factor
            weight.grad = torch.ones(1)
            optimizer.step()
        assert way(settings) == pytest.approx(-weight.item(), rel=0.02)


def test_a_scale_changes_no_prediction() -> None:
    head, scale, rows = nn.Linear(5, 3), Scale(), torch.randn(50, 5)
    before = head(rows)
    with torch.no_grad():
        scale.log_scale.fill_(-0.7)
    scale.apply_to(head)
    assert torch.allclose(head(rows), math.exp(-0.7) * before, atol=1e-6)
    assert torch.equal(head(rows).argmax(dim=1), before.argmax(dim=1))


def made(count: int, strength: float) -> tuple[Images, Images, Tensor]:
    """Images of noise whose classes are drawn with known probabilities: those to learn from, others, and the
    probability of these others' second class. With no strength the labels say nothing.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2 * count, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    direction = torch.randn(SIDE * SIDE, generator=generator)
    found = F.normalize(pixels.flatten(1).float() - 127.5) @ direction
    true = (strength * found).sigmoid()
    labels = torch.bernoulli(true, generator=generator).long()
    images = [
        Images(pixels[part], labels[part], ("no", "yes"), "made")
        for part in (slice(0, count), slice(count, None))
    ]
    return images[0], images[1], true[count:]


def probabilities(images: Images, others: Images, budget: Budget, **overrides: object) -> Tensor:
    """Of the others' second class, by a classifier that a whole run has learned."""
    chosen = {"encoder": "pixels", "mirror": False, **overrides}
    public = facts_of(images)
    config = DPRandP().default_config(public, budget, CPU, chosen)
    found = learned(DPRandP(), config, images, budget)
    with torch.no_grad():
        model = config.build_model(public)
        model.load_state_dict({**model.state_dict(), **found.tensors})
        return model(others.pixels).softmax(dim=1)[:, 1]


def test_where_there_is_only_noise_probabilities_are_nearly_even() -> None:
    """Labels were drawn by a coin: what a head learns is noise, its own and that of the labels."""
    images, others, _ = made(4000, strength=0.0)
    before = probabilities(images, others, BUDGET, calibration_share=0.0)
    after = probabilities(images, others, BUDGET)
    assert (before - 0.5).abs().mean() > 0.15
    assert (after - 0.5).abs().mean() < 0.1


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_probabilities_that_are_known_come_out(strength: float) -> None:
    images, others, true = made(4000, strength)
    assert others.labels is not None
    error, more_sure_than_right = [], []
    for share in (0.0, CALIBRATION_SHARE):
        found = probabilities(images, others, BUDGET, calibration_share=share)
        error.append(float((found - true).square().mean()))
        right = float(((found > 0.5).long() == others.labels).double().mean())
        more_sure_than_right.append(float((found - 0.5).abs().mean()) + 0.5 - right)
    assert error[1] < 0.9 * error[0]
    assert more_sure_than_right[0] > 0.04
    assert abs(more_sure_than_right[1]) < 0.02


def config_for(count: int, budget: Budget = BUDGET, **overrides: object) -> DPRandPConfig:
    return DPRandP().default_config(facts(count), budget, CPU, overrides)


def test_the_scale_has_its_share_of_the_budget() -> None:
    """By 1/σ² of what is a single release: all images enter every step."""
    for overrides, share in (({}, CALIBRATION_SHARE), ({"calibration_share": 0.2, "steps": 7}, 0.2)):
        plan = calibrated(DPRandP(), config_for(5000, **overrides), facts(5000), BUDGET)
        head, scale = (stage.count / stage.mechanism.noise_multiplier**2 for stage in plan.stages)
        assert scale / (head + scale) == pytest.approx(share)
        assert [stage.event.sample_rate for stage in plan.stages] == [1.0, 1.0]
        assert 7.9 <= plan.epsilon <= 8.0
    without = calibrated(DPRandP(), config_for(5000, calibration_share=0.0), facts(5000), BUDGET)
    assert len(without.stages) == 1


@pytest.mark.parametrize("count", [300, 5000, 50_000])
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
def test_the_noise_moves_the_scale_by_little(count: int, epsilon: float) -> None:
    budget = Budget(epsilon, 1e-5)
    config = config_for(count, budget)
    stage = calibrated(DPRandP(), config, facts(count), budget).stages[1]
    each = config.calibration_learning_rate * stage.mechanism.standard_deviation / count
    moved = each * math.sqrt(calibration.STEPS)
    assert moved <= 1.02 * calibration.NOISE
    assert moved >= 0.98 * calibration.NOISE or config.calibration_learning_rate == calibration.LARGEST_RATE
    expected = calibration.learning_rate(images_over_noise(count, budget), CALIBRATION_SHARE)
    assert config.calibration_learning_rate == pytest.approx(expected, rel=0.01)


def test_only_a_head_whose_steps_are_known_is_calibrated() -> None:
    assert config_for(300).calibration_share == CALIBRATION_SHARE
    assert config_for(300, head="linear_with_intercept").calibration_share == CALIBRATION_SHARE
    for others in (
        {"head": "affine"},
        {"phase_iii": "full"},
        {"phase_ii": "sampled"},
        {"optimizer": "adam"},
    ):
        config = config_for(300, **others)
        assert config.calibration_share == 0
        with pytest.raises(InputError, match="calibration_share: only a linear head"):
            replace(config, calibration_share=0.1)
        with pytest.raises(InputError, match="calibration_share: only a linear head"):
            config_for(300, calibration_share=0.1, **others)
    with pytest.raises(InputError, match=r"calibration_share must be at least 1e-06 and at most"):
        config_for(300, calibration_share=1.0)
    with pytest.raises(InputError, match="calibration_learning_rate must be above 0"):
        config_for(300, calibration_learning_rate=0.0)


def test_features_are_computed_once_for_both_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _, _ = made(200, strength=1.0)
    public = PublicFacts(len(images), images.shape, images.class_names)
    config = DPRandP().default_config(public, BUDGET, CPU, {"encoder": "pixels", "steps": 3})
    seen = []
    blocks = Images.blocks
    monkeypatch.setattr(Images, "blocks", lambda self, count: seen.append(count) or blocks(self, count))
    learned(DPRandP(), config, images, BUDGET)
    assert len(seen) == 1


def left_out_of_units(
    head: nn.Linear, features: Tensor, labels: Tensor, settings: GradientSettings, count: int
) -> Tensor:
    """Of units of features ``[B, M, D]`` and labels ``[B, M]``: ``[B, M, classes]``."""
    draws = SeededRandom(0).by_example().of(torch.arange(len(features)))
    rows = logits_and_features(head, features.flatten(0, 1)).unflatten(0, features.shape[:2])
    targets = F.one_hot(labels, head.out_features).float()
    return LeftOut(settings, head.in_features, count).of_units(rows, targets, draws)[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_unit_of_images_that_are_alike_is_left_out_as_one_is(bias: bool, times: int) -> None:
    features, labels = some_features(50)
    head = nn.Linear(30, 3, bias=bias)
    alone = left_out_logits(head, features, labels, descent(), 50)
    units = features[:, None].repeat(1, times, 1), labels[:, None].repeat(1, times)
    found = left_out_of_units(head, *units, descent(), 50)
    assert torch.allclose(found, alone[:, None].expand_as(found), atol=1e-5)


def test_what_is_said_of_a_unit_depends_on_no_other() -> None:
    features, labels = some_features(60)
    head = nn.Linear(30, 3)
    units = features.view(20, 3, 30), labels.view(20, 3)
    found = left_out_of_units(head, *units, descent(), 20)
    for kept in (torch.arange(20) != 0, torch.arange(20) > 12, torch.arange(20) == 7):
        again = left_out_of_units(head, *(part[kept] for part in units), descent(), 20)
        assert torch.equal(again, found[kept])


def test_rows_that_fill_a_unit_up_change_nothing() -> None:
    features, labels = some_features(60)
    head = nn.Linear(30, 3)
    units, own = features.view(20, 3, 30), F.one_hot(labels.view(20, 3), 3).float()
    draws = SeededRandom(0).by_example().of(torch.arange(20))
    policy = LeftOut(descent(), 30, 20)
    rows = logits_and_features(head, features).unflatten(0, (20, 3))
    filled = torch.cat([rows, rows[:, -1:]], dim=1)
    targets = torch.cat([own * 4 / 3, torch.zeros(20, 1, 3)], dim=1)
    expected = left_out_of_units(head, units, labels.view(20, 3), descent(), 20)
    assert torch.allclose(policy.of_units(filled, targets, draws)[0][:, :3], expected, atol=1e-5)


def test_it_is_about_what_a_head_says_that_has_not_seen_the_unit() -> None:
    """Of units whose three images are nearly alike."""
    features, labels = some_features(60, 300)
    noise = 0.02 * torch.randn(60, 3, 300, generator=torch.Generator().manual_seed(2))
    units = F.normalize(features[:, None] + noise, dim=2)
    settings = descent(learning_rate=0.5)
    head = descended(features, labels, settings, 60)
    without = torch.stack(
        [
            descended(features[kept], labels[kept], settings, 60)(units[~kept]).squeeze(0)
            for kept in (torch.arange(60) != index for index in range(60))
        ]
    ).detach()
    found = left_out_of_units(head, units, labels[:, None].repeat(1, 3), settings, 60)
    assert (found - without).square().mean() < 0.5 * (head(units) - without).square().mean()
