"""A mechanism that dpvision lacks, whose noise is correlated over steps, with the trainer and a ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import dp_accounting
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient
from dpvision.privacy import (
    Account,
    Budget,
    BudgetExceeded,
    Event,
    FullBatch,
    GaussianEvent,
    GaussianSumMechanism,
    InputError,
    Ledger,
    Mechanism,
    RandomSource,
    SeededRandom,
    epsilon,
)
from dpvision.privacy.events import register
from dpvision.privacy.mechanisms import Recorder
from dpvision.training import Phase, PrivateTrainer
from dpvision.views import SelfAugmentation

N, C, SIGMA, DECAY, STEPS = 12, 0.7, 4.0, 0.6, 6
BUDGET = Budget(50.0, 1e-5)


def distance(releases: int, decay: float) -> float:
    """‖C·1‖₂, where Cᵢⱼ = decay^(i−j) for i ≥ j: the k-th row's sum is 1 + decay + … + decay^(k−1)."""
    rows = np.cumsum(decay ** np.arange(releases))
    return float(np.linalg.norm(rows))


@dataclass(frozen=True)
class CorrelatedEvent(Event):
    """``count`` steps whose noise is Z(t) − decay·Z(t−1), over all examples each.

    Guarantee: with the matrix C of `distance`, the sums G and their noise are C⁻¹·(C·G + Z), so that all
    steps together are made of one Gaussian release of C·G (Denisov et al., arXiv 2202.08312, Theorem 2.1:
    also if each step depends on those before). An example adds rows of norm at most 1 to G, hence at most
    ‖C·1‖₂ to C·G. That is the count's square root for decay 0. Later rows are longer, so a + b steps cost
    more than a steps and b others: like events may be counted together.
    """

    kind: ClassVar[str] = "correlated_gaussian"
    noise: ClassVar[str] = "correlated Gaussian noise"

    noise_multiplier: float
    decay: float

    @property
    def _at_once(self) -> GaussianEvent:
        return GaussianEvent(self.noise_multiplier / distance(self.count, self.decay))

    def scaled(self, scale: float) -> Self:
        return replace(self, noise_multiplier=scale * self.noise_multiplier)

    def to_dp_event(self, neighboring_relation: str) -> dp_accounting.DpEvent:
        return self._at_once.to_dp_event(neighboring_relation)

    def renyi_divergences(self, orders: Sequence[float], neighboring_relation: str) -> np.ndarray:
        return self._at_once.renyi_divergences(orders, neighboring_relation)

    @property
    def roundings(self) -> int:
        return 1

    @property
    def largest_loss(self) -> float:
        return self._at_once.largest_loss


register("correlated_gaussian", CorrelatedEvent)


class CorrelatedNoise:
    """Takes back some of the last step's noise in each, and records each step's share."""

    def __init__(self, decay: float = DECAY) -> None:
        self.sensitivity, self.sampler = C, FullBatch(N)
        self.decay = decay
        self._last: dict[str, Tensor] = {}

    def cost(self, releases: int) -> CorrelatedEvent:
        return CorrelatedEvent(SIGMA, self.decay, count=releases)

    def release(
        self, sums: Mapping[str, Tensor], account: Recorder, random: RandomSource
    ) -> dict[str, Tensor]:
        account.record(self.cost(1))
        released = {}
        for name, total in sums.items():
            shifted = total.detach().double() - self.decay * self._last.get(name, torch.zeros(()))
            released[name] = random.add_normal(shifted, SIGMA * C)
            self._last[name] = released[name].double() - shifted
        return released

    def state(self) -> Mapping[str, Tensor]:
        return {name: noise.clone() for name, noise in self._last.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            raise InputError("there is no noise of a last step")
        self._last = {name: noise.clone() for name, noise in state.items()}


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def make_trainer(mechanism: Mechanism | None = None) -> PrivateTrainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    pixels = torch.randint(256, (N, 1, 4, 4), dtype=torch.uint8)
    return PrivateTrainer(
        model,
        pixels,
        torch.arange(N) % 3,
        policy=SelfAugmentation(augmult=2, pad=1, flip=True),
        engine=ClippedGradient(model, loss, C, precision="float32"),
        mechanism=mechanism or CorrelatedNoise(),
        phases=[Phase(STEPS, "sgd", 0.1)],
        ema_decay=0.9,
        random=SeededRandom(3),
    )


def open_account(ledger: Ledger, mechanism: CorrelatedNoise) -> Account:
    account = Account(BUDGET, ledger, "run", [mechanism.cost(STEPS)])
    account.open()
    return account


def saved(trainer: PrivateTrainer) -> dict[str, Tensor]:
    """Its state, by way of a file."""
    return safetensors.torch.load(safetensors.torch.save(trainer.state()))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.for_dataset(tmp_path / "data.jsonl", "ab" * 32, N)


def test_it_trains_and_each_step_is_in_the_ledger_before_its_noise(ledger: Ledger) -> None:
    mechanism = CorrelatedNoise()
    trainer, account = make_trainer(mechanism), open_account(ledger, mechanism)
    for step in range(STEPS):
        trainer.step(account)
        assert Ledger(ledger.path)._runs["run"].reservation.spent == (mechanism.cost(step + 1),)
    before = saved(trainer)
    with pytest.raises(BudgetExceeded, match="0 more releases of correlated Gaussian noise"):
        trainer.step(account)
    after = saved(trainer)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(("relation", "ratio"), [("add_or_remove_one", 1), ("replace_one", 2)])
def test_all_steps_cost_what_one_release_of_them_does(relation: str, ratio: int) -> None:
    workload = np.linalg.inv(np.eye(STEPS) - DECAY * np.eye(STEPS, k=-1))
    sensitivity = ratio * np.linalg.norm(workload.sum(axis=1))
    exact = dp_accounting.get_epsilon_gaussian(SIGMA / sensitivity, 1e-5)
    planned = [CorrelatedEvent(SIGMA, DECAY, count=STEPS)]
    assert exact <= epsilon(planned, 1e-5, relation) <= 1.002 * exact  # type: ignore[arg-type]
    independent = [CorrelatedEvent(SIGMA, 0.0, count=STEPS)]
    composed = epsilon([GaussianEvent(SIGMA, count=STEPS)], 1e-5)
    assert epsilon(independent, 1e-5) == pytest.approx(composed, rel=1e-9)


def test_steps_take_back_noise_of_the_step_before() -> None:
    mechanism, account = CorrelatedNoise(), Account(BUDGET, None, "run", [CorrelatedNoise().cost(STEPS)])
    account.open()
    sums = [{"w": torch.full((5,), float(step))} for step in range(STEPS)]
    random = SeededRandom(1)
    drawn = [random.at("noise", step).add_normal(torch.zeros(5), SIGMA * C) for step in range(STEPS)]
    for step, total in enumerate(sums):
        released = mechanism.release(total, account, random.at("noise", step))
        expected = total["w"] + drawn[step] - (DECAY * drawn[step - 1] if step else 0)
        torch.testing.assert_close(released["w"], expected, rtol=0, atol=1e-5)


def test_its_state_survives_a_checkpoint(ledger: Ledger) -> None:
    whole = make_trainer()
    account = Account(BUDGET, None, "whole", [CorrelatedNoise().cost(STEPS)])
    account.open()
    for _ in range(STEPS):
        whole.step(account)
    mechanism = CorrelatedNoise()
    first, account = make_trainer(mechanism), open_account(ledger, mechanism)
    for _ in range(3):
        first.step(account)
    resumed = make_trainer()
    resumed.load_state(saved(first))
    account = open_account(Ledger(ledger.path), mechanism)
    for _ in range(3):
        resumed.step(account)
    expected, found = whole.state(), resumed.state()
    assert expected.keys() == found.keys()
    assert any(name.startswith("mechanism.") for name in found)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_lost_steps_stay_paid_and_the_plan_covers_them(ledger: Ledger) -> None:
    """Two steps were saved, a third was lost, and the others go on from the second."""
    mechanism = CorrelatedNoise()
    first, account = make_trainer(mechanism), open_account(ledger, mechanism)
    first.step(account)
    first.step(account)
    checkpoint = saved(first)
    first.step(account)
    resumed, account = make_trainer(), open_account(Ledger(ledger.path), mechanism)
    resumed.load_state(checkpoint)
    taken = 0
    while account.left(mechanism.cost(1)):
        resumed.step(account)
        taken += 1
    assert taken == STEPS - 3
    rows = [1.0, 1 + DECAY]
    for branch in (1, taken):
        last = rows[1]
        for _ in range(branch):
            last = 1 + DECAY * last
            rows.append(last)
    assert len(rows) == STEPS
    assert np.linalg.norm(rows) <= distance(STEPS, DECAY)


def test_a_state_goes_to_a_mechanism_that_has_one(ledger: Ledger) -> None:
    stateless = make_trainer(GaussianSumMechanism(SIGMA, C, FullBatch(N)))
    assert not any(name.startswith("mechanism.") for name in stateless.state())
    mechanism = CorrelatedNoise()
    stateful, account = make_trainer(mechanism), open_account(ledger, mechanism)
    stateful.step(account)
    with pytest.raises(InputError, match="its mechanism has a state"):
        stateless.load_state(saved(stateful))
    with pytest.raises(InputError, match="no noise of a last step"):
        stateful.load_state(saved(stateless))
