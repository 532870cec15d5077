"""Defaults: every data set gets a configuration that can be trained, without a look at the images."""

from __future__ import annotations

from typing import Any

import pytest

from dpvision.methods.dp_sgd import DPSGD, DPSGDConfig
from dpvision.networks import build_network
from dpvision.privacy import Budget, InputError, PublicFacts, default_delta
from tests.methods.learning import CPU, calibrated

NAMES = tuple(str(i) for i in range(10))
SMALL = PublicFacts(100, (1, 28, 28), NAMES)


def small_config(**overrides: Any) -> DPSGDConfig:
    return DPSGD().default_config(SMALL, Budget(1.0, 1e-3), CPU, overrides)


@pytest.mark.parametrize(
    ("num_examples", "shape"),
    [
        (20, (1, 8, 8)),
        (1_437, (1, 8, 8)),
        (60_000, (1, 28, 28)),
        (5_000, (3, 28, 28)),
        (50_000, (3, 32, 32)),
        (7_000, (3, 64, 48)),
    ],
)
def test_defaults_fit_the_data(num_examples: int, shape: tuple[int, int, int]) -> None:
    budget = Budget(2.0, default_delta(num_examples))
    facts = PublicFacts(num_examples, shape, NAMES)
    config = DPSGD().default_config(facts, budget, CPU, {})
    assert config.steps >= 20
    assert calibrated(DPSGD(), config, facts, budget).epsilon <= 2.0
    build_network(
        config.network,
        in_channels=shape[0],
        image_size=shape[1:],
        num_classes=10,
        **config.network_options,
    )


@pytest.mark.parametrize("network", ["linear", "tanh-cnn"])
def test_the_way_follows_from_images_and_noise(network: str) -> None:
    """Twice the images with the same noise, or half the noise, take steps that are twice as long, or as many,
    up to a largest rate and a number of steps.
    """
    budget, overrides = Budget(1.0, 1e-6), {"network": network}
    ways = []
    for num_examples in (500, 1000, 100_000):
        config = DPSGD().default_config(PublicFacts(num_examples, (1, 16, 16), NAMES), budget, CPU, overrides)
        ways.append(config.steps * config.learning_rate)
    assert ways[1] == pytest.approx(2 * ways[0], rel=0.01)
    assert ways[1] < ways[2] < 200 * ways[0]


@pytest.mark.parametrize(
    ("num_examples", "shape", "network"),
    [
        (50_000, (3, 32, 32), "tanh-cnn"),
        (2_000, (3, 32, 32), "linear"),
        (50_000, (1, 28, 28), "linear"),
        (50_000, (3, 8, 8), "linear"),
    ],
)
def test_many_photographs_have_convolutions(
    num_examples: int, shape: tuple[int, int, int], network: str
) -> None:
    facts = PublicFacts(num_examples, shape, NAMES)
    assert DPSGD().default_config(facts, Budget(2.0, 1e-5), CPU, {"steps": 1}).network == network


def test_more_steps_are_smaller_ones() -> None:
    few, many = small_config(network="linear"), small_config(network="linear", steps=1000)
    assert many.steps * many.learning_rate == pytest.approx(few.steps * few.learning_rate, rel=0.01)


def test_less_privacy_never_takes_a_shorter_way() -> None:
    ways = []
    for epsilon in (0.1, 0.3, 1.0, 3.0, 10.0, 1e6):
        config = DPSGD().default_config(SMALL, Budget(epsilon, 1e-5), CPU, {})
        ways.append(config.steps * config.learning_rate)
    assert ways == sorted(ways)


def test_what_the_user_says_holds() -> None:
    said = {"network": "linear", "steps": 7, "expected_batch_size": 3, "augmult": 2}
    config = small_config(**said)
    assert {name: getattr(config, name) for name in said} == said


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(InputError, match="epochs"):
        small_config(epochs=3)


def test_an_estimate_grows_with_the_data() -> None:
    config = small_config(steps=10)
    small, large = (
        DPSGD().estimate(config, PublicFacts(n, (1, 28, 28), NAMES), CPU) for n in (100, 10_000_000)
    )
    assert small.seconds > 0
    assert large.memory_bytes - small.memory_bytes == pytest.approx(2 * 28 * 28 * 9_999_900, rel=0.01)


@pytest.mark.parametrize(
    ("setting", "value", "needed"),
    [
        ("max_grad_norm", "1", "a number, not '1'"),
        ("max_grad_norm", True, "a number, not True"),
        ("max_grad_norm", 1e-24, "a number from 1e-10 to 1e"),
        ("max_grad_norm", float("inf"), "a number from 1e-10 to 1e"),
        ("steps", 2.5, "a whole number, not 2.5"),
        ("steps", None, "a whole number, not None"),
        ("flip", 1, "true or false, not 1"),
        ("network", 3, "a name, not 3"),
        ("network_options", [], "a table, not"),
    ],
)
def test_a_setting_of_another_type_is_named(setting: str, value: object, needed: str) -> None:
    with pytest.raises(InputError, match=f"{setting}:? (must be|takes) {needed}"):
        small_config(**{"steps": 2, setting: value})
