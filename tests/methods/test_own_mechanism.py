"""A method that releases by a mechanism which dpvision lacks goes through all that the others do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.images import Images
from dpvision.methods import known_methods, registry
from dpvision.methods.dp_sgd import DPSGD, DPSGDConfig
from dpvision.methods.stages import Stage
from dpvision.privacy import FullBatch, InputError, Ledger, PublicFacts, RandomSource, default_ledger_path
from dpvision.privacy.mechanisms import Recorder
from dpvision.testing import GuaranteeBroken, check_guarantee, method_run
from tests.training.correlated import C, CorrelatedEvent, CorrelatedNoise

NAME, STEPS, N = "correlated-sgd", 4, 40
CONFIG: dict[str, Any] = {
    "network": "linear", "steps": STEPS, "expected_batch_size": N, "max_grad_norm": C, "precision": "float32",
}  # fmt: skip
OPTIONS: dict[str, Any] = {"method": NAME, "epsilon": 8.0, "delta": 1e-3, "config": CONFIG}


class CorrelatedSGD(DPSGD):
    """DP-SGD on all images in every step, each of which takes back some of the last one's noise."""

    name = NAME

    def stages(self, config: DPSGDConfig, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        mechanism = CorrelatedNoise(sampler=FullBatch(facts.num_examples), sigma=noise_multiplier)
        return (Stage("the sum of clipped gradients", mechanism, config.steps),)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    entry = EntryPoint(NAME, "their_package:CorrelatedSGD", registry.GROUP)
    object.__setattr__(entry, "load", lambda: CorrelatedSGD)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    known_methods.cache_clear()
    yield
    monkeypatch.undo()
    known_methods.cache_clear()


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(N)


def test_it_trains_and_its_steps_are_in_card_and_ledger(images: Images, tmp_path: Path) -> None:
    expected = dpvision.plan(images, **OPTIONS)
    result = dpvision.train(images, out=tmp_path / "run", **OPTIONS)
    assert result.epsilon == expected.epsilon <= 8
    card = json.loads((result.release / "card.json").read_text())
    (mechanism,) = card["mechanisms"]
    assert mechanism["name"] == "correlated Gaussian noise on the sum of clipped gradients"
    assert (mechanism["count"], mechanism["decay"]) == (STEPS, 0.6)
    assert card["sampler"] == "none: every image enters every release"
    (run,) = Ledger(default_ledger_path(images.digest)).summary()["runs"]
    assert not run["open"]
    assert run["epsilon_spent"] > 0


def test_it_keeps_its_guarantee_and_a_fault_is_seen(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    few = images.subset(range(10))
    run = method_run(NAME, num_examples=10, delta=1e-3, config=CONFIG | {"expected_batch_size": 10})
    found = check_guarantee(run, few, "add_or_remove_one", mechanisms=[CorrelatedNoise])
    assert {comparison.releases for comparison in found} == {STEPS}
    assert all(0 < comparison.largest <= 1 for comparison in found)
    with pytest.raises(GuaranteeBroken, match="nothing was released by a mechanism"):
        check_guarantee(run, few, "add_or_remove_one")

    def late(mechanism: CorrelatedNoise, sums: Any, account: Recorder, random: RandomSource) -> Any:
        """The noise before the record."""
        released = {name: random.add_normal(total.double(), 1.0) for name, total in sums.items()}
        account.record(mechanism.cost(1))
        return released

    monkeypatch.setattr(CorrelatedNoise, "release", late)
    with pytest.raises(
        GuaranteeBroken, match="recorded, then drawn, was to be its order, and not: drawn, rec"
    ):
        check_guarantee(run, few, "add_or_remove_one", mechanisms=[CorrelatedNoise])


def test_an_interrupted_run_goes_on_with_the_noise_of_its_last_step(images: Images, tmp_path: Path) -> None:
    whole = dpvision.train(images, out=tmp_path / "whole", seed=1, **OPTIONS)
    (tmp_path / "whole").rename(tmp_path / "other")

    def interrupt(what: str, done: int, total: int, account: Any = None) -> None:
        if what == "training" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dpvision.train(images, out=tmp_path / "run", seed=1, progress=interrupt, **OPTIONS)
    resumed = dpvision.resume(tmp_path / "run", data=images)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


def test_canaries_have_no_place_in_it(images: Images) -> None:
    with pytest.raises(
        InputError, match="canaries are planted in Gaussian sums, not in what CorrelatedNoise"
    ):
        dpvision.audit(images, **OPTIONS)
    assert not default_ledger_path(images.digest).exists()
    assert not dpvision.audit(images, canary_kind="mislabelled", canaries=20, seed=0, **OPTIONS).refuted


def test_the_event_is_what_it_was() -> None:
    """The mechanism that a stage has is the run's at its beginning: `over` has no past."""
    mechanism = CorrelatedNoise()
    mechanism.load_state({"w": torch.ones(2)})
    assert mechanism.over(5).state() == {}
    assert mechanism.over(5).cost(3) == CorrelatedEvent(mechanism.sigma, mechanism.decay, count=3)
