"""What a session promises whatever the method: what leaves it is paid for, once, and drawn for it alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpvision.images import Images
from dpvision.methods import Calibrated, Session
from dpvision.methods.dp_randp import DPRandP
from dpvision.methods.stages import Stage
from dpvision.privacy import Account, Budget, GaussianSumMechanism, InputError, Ledger
from dpvision.privacy.sampling import FullBatch
from tests.methods.learning import CPU, calibrated, facts_of, session_on

BUDGET = Budget(8.0, 1e-3)
BLANK = {"sum": torch.zeros(50)}


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(60)


class Memory:
    """Keeps the last state in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Tensor] | None = None

    def load(self) -> dict[str, Tensor] | None:
        return self.kept

    def save(self, state: Callable[[], Mapping[str, Tensor]], final: bool) -> None:
        self.kept = {name: tensor.clone() for name, tensor in state().items()}

    def reserve(self, size: int) -> None: ...


def releases(images: Images, count: int) -> Calibrated:
    """So many stages of one release each, all with the same mechanism."""
    mechanism = GaussianSumMechanism(20.0, 1.0, FullBatch(len(images)))
    return Calibrated(20.0, tuple(Stage("a sum", mechanism, 1) for _ in range(count)), 1.0)


def nothing(images: Images) -> dict[str, Tensor]:
    """Sums that do not depend on the images, so that what is released is the noise."""
    return BLANK


def test_stages_of_equal_mechanisms_draw_noise_of_their_own(images: Images) -> None:
    """From a seed too, of which the same purpose and step make the same numbers."""
    session, _ = session_on(images, releases(images, 3), BUDGET)
    drawn = [session.release(number, nothing, BLANK)["sum"] for number in range(3)]
    assert all((drawn[one] != drawn[other]).all() for one in range(3) for other in range(one))


def test_a_release_is_recorded_and_made_once_however_often_it_is_asked_for(images: Images) -> None:
    memory, asked = Memory(), []

    def sums_of(images: Images) -> dict[str, Tensor]:
        asked.append(images)
        return BLANK

    stages = releases(images, 2)
    session, account = session_on(images, stages, BUDGET, checkpoints=memory)
    assert account.spent == ()
    first = session.release(0, sums_of, BLANK)["sum"]
    assert account.left(stages.stages[0].event) == 1
    again, taken_up = session_on(images, stages, BUDGET, checkpoints=memory)
    taken_up.record(stages.stages[0].event)
    for one in (session, again):
        assert torch.equal(one.release(0, sums_of, BLANK)["sum"], first)
    assert len(asked) == 1
    assert account.left(stages.stages[0].event) == taken_up.left(stages.stages[0].event) == 1


def test_a_release_that_was_paid_for_but_lost_is_not_made_again(images: Images) -> None:
    """The first may have been seen: a second shows the same sums under other noise."""

    def never(images: Images) -> dict[str, Tensor]:
        raise AssertionError("the images were read")

    stages = releases(images, 1)
    session, account = session_on(images, stages, BUDGET)
    account.record(stages.stages[0].event)
    spent = account.spent
    with pytest.raises(InputError, match="was paid for but lost"):
        session.release(0, never, BLANK)
    assert account.spent == spent


def test_what_an_earlier_stage_has_lost_is_counted_after_an_interruption(
    images: Images, tmp_path: Path
) -> None:
    """Steps that were paid for and lost in the head's stage, and an interruption in the next."""
    method = DPRandP()
    config = method.default_config(
        facts_of(images), BUDGET, CPU, {"encoder": "random-wrn-10-1", "steps": 6, "phase_iii": "full",
                                        "phase_ii_share": 0.5, "expected_batch_size": 30},
    )  # fmt: skip
    stages, memory = calibrated(method, config, facts_of(images), BUDGET), Memory()
    ledger = Ledger.for_dataset(tmp_path / "ledger.jsonl", images.digest, len(images))

    def interrupt(step: Any) -> None:
        if step.step == 4:
            raise KeyboardInterrupt

    def session(**options: Any) -> tuple[Session, Account]:
        return session_on(images, stages, BUDGET, ledger=ledger, checkpoints=memory, **options)

    first, account = session(on_step=interrupt)
    account.record(stages.stages[0].mechanism.event)
    with pytest.raises(KeyboardInterrupt):
        method.learn(config, first)
    later, account = session()
    method.learn(config, later)
    assert (first.lost, later.lost) == (1, 1)
    assert [account.left(stage.mechanism.event) for stage in stages.stages] == [0, 0]
