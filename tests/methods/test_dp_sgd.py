"""DP-SGD as a method: what it plans to spend, and what it refuses."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from dpvision.methods import Calibrated, setting_types
from dpvision.methods.dp_sgd import DPSGD, DPSGDConfig
from dpvision.methods.settings import with_overrides
from dpvision.privacy import Budget, InputError, epsilon, gaussian_event
from dpvision.privacy.values import fits
from tests.methods.learning import calibrated, facts

RECIPE = DPSGDConfig(
    network="wrn-16-4",
    steps=875,
    expected_batch_size=4096,
    augmult=16,
    pad=4,
    flip=True,
    learning_rate=2.0,
)


def plan_of(config: DPSGDConfig, num_examples: int, budget: Budget) -> Calibrated:
    return calibrated(DPSGD(), config, facts(num_examples), budget)


def test_plan_of_the_published_recipe() -> None:
    """De et al., arXiv 2204.13650: ε = 1 on CIFAR-10; σ = 9.13 by PLD."""
    plan = plan_of(RECIPE, 50_000, Budget(1.0, 1e-5))
    assert plan.noise_multiplier == pytest.approx(9.13, rel=0.01)
    assert plan.events == (gaussian_event(plan.noise_multiplier, 4096 / 50_000, 875),)
    assert 0.99 <= plan.epsilon <= 1.0
    assert plan.epsilon == epsilon(plan.events, 1e-5)


def test_replace_one_needs_more_noise() -> None:
    add_or_remove = plan_of(RECIPE, 50_000, Budget(1.0, 1e-5))
    replace = plan_of(RECIPE, 50_000, Budget(1.0, 1e-5, "replace_one"))
    assert replace.noise_multiplier > 1.5 * add_or_remove.noise_multiplier


@pytest.mark.parametrize(
    ("num_examples", "budget"), [(50_000, Budget(1.0, 1 / 50_000)), (4_000, Budget(1.0, 1e-5))]
)
def test_impossible_plans_are_refused(num_examples: int, budget: Budget) -> None:
    with pytest.raises(InputError):
        plan_of(RECIPE, num_examples, budget)


@pytest.mark.parametrize(
    "setting",
    [
        {"steps": 0},
        {"expected_batch_size": 0},
        {"augmult": 0},
        {"pad": -1},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": float("inf")},
        {"learning_rate": -1.0},
        {"momentum": 1.0},
        {"ema_decay": 1.0},
        {"optimizer": "lion"},
        {"schedule": "exponential"},
        {"precision": "float16"},
        {"epochs": 3},
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting: dict[str, object]) -> None:
    (name,) = setting
    with pytest.raises(InputError, match=name):
        with_overrides(RECIPE, setting)


def test_every_setting_has_a_type() -> None:
    types = setting_types(DPSGDConfig)
    assert types.keys() == asdict(RECIPE).keys()
    assert all(fits(value, types[name]) for name, value in asdict(RECIPE).items())
