"""A mechanism that dpvision lacks, whose noise is correlated over steps, with the trainer and a ledger."""

from __future__ import annotations

from pathlib import Path

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
    BudgetExceeded,
    FullBatch,
    GaussianEvent,
    GaussianSumMechanism,
    InputError,
    Ledger,
    Mechanism,
    SeededRandom,
    epsilon,
)
from dpvision.training import Phase, PrivateTrainer, Rows
from dpvision.views import SelfAugmentation
from tests.training.correlated import (
    BUDGET,
    DECAY,
    SIGMA,
    STEPS,
    C,
    CorrelatedEvent,
    CorrelatedNoise,
    N,
    distance,
)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def make_trainer(mechanism: Mechanism | None = None) -> PrivateTrainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    pixels = torch.randint(256, (N, 1, 4, 4), dtype=torch.uint8)
    return PrivateTrainer(
        model,
        Rows(pixels),
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
