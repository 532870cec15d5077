"""A selection on a session: paid for at once, made of the same trials whatever happens, of which the best
alone comes out; and the candidates of a method, each with noise for the whole selection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpvision.evaluation import accuracy
from dpvision.images import Images
from dpvision.methods import Calibrated, Session, calibrate, find_method
from dpvision.methods.search import Search
from dpvision.methods.stages import Stage
from dpvision.methods.tuned import Tuned, images_right
from dpvision.networks import Classifier, build_classifier
from dpvision.privacy import (
    Budget,
    GaussianSumMechanism,
    InputError,
    Ledger,
    SecureRandom,
    SeededRandom,
    epsilon,
)
from dpvision.privacy.events import SelectionEvent
from dpvision.privacy.sampling import FullBatch
from dpvision.privacy.selection import SelectionMechanism
from tests.methods.learning import CPU, facts_of, session_on
from tests.methods.test_session import BLANK, Memory, nothing

BUDGET = Budget(8.0, 1e-3)
LINEAR = {"network": "linear", "expected_batch_size": 20, "precision": "float32"}


@pytest.fixture
def images(left_or_right: Callable[[int], Images]) -> Images:
    return left_or_right(60)


def trial_of(images: Images, candidate: int) -> Calibrated:
    """One release, with a noise of the candidate's own."""
    mechanism = GaussianSumMechanism(20.0 + candidate, 1.0, FullBatch(len(images)))
    return Calibrated(20.0, (Stage("a sum", mechanism, 1),), 1.0)


def selection(images: Images, mean: float = 6.0) -> Calibrated:
    events = tuple(trial_of(images, candidate).events for candidate in range(3))
    mechanism = SelectionMechanism(events, mean, FullBatch(len(images)))
    return Calibrated(1.0, (Stage("a selection", mechanism, 1),), 1.0)


class Trials:
    """Trials whose score is the first number of the noise; what each drew, in their order."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.drawn: list[tuple[int, Tensor]] = []
        self.fail_at = fail_at

    def __call__(self, candidate: int, session: Session) -> dict[str, Tensor]:
        noise = session.release(0, nothing, BLANK)["sum"]
        self.drawn.append((candidate, noise))
        if len(self.drawn) == self.fail_at:
            raise KeyboardInterrupt
        return {"score": noise[0], "rest": noise}


def select(session: Session, images: Images, trials: Trials) -> Mapping[str, Tensor]:
    return session.select(0, partial(trial_of, images), trials)


def test_the_best_of_independent_trials_comes_out_and_is_paid_for_once(images: Images) -> None:
    memory, trials, stages = Memory(), Trials(), selection(images)
    session, account = session_on(images, stages, BUDGET, checkpoints=memory, random=SecureRandom())
    best = select(session, images, trials)
    scores = torch.stack([noise[0] for _, noise in trials.drawn])
    assert len(scores) >= 1
    assert best["score"] == scores.max()
    assert torch.equal(best["rest"], trials.drawn[int(scores.argmax())][1])
    for number, (_, one) in enumerate(trials.drawn):
        assert all((one != other).all() for _, other in trials.drawn[:number])
    assert account.spent == stages.events
    assert memory.kept is not None
    assert not any("key" in name for name in memory.kept), "noise could be drawn again"
    again = Trials()
    resumed, _ = session_on(images, stages, BUDGET, checkpoints=memory)
    assert torch.equal(select(resumed, images, again)["rest"], best["rest"])
    assert not again.drawn


def test_it_is_in_the_ledger_before_the_first_noise(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.for_dataset(tmp_path / "ledger.jsonl", images.digest, len(images))
    stages, seen = selection(images), []
    add = SeededRandom.add_normal

    def watched(random: SeededRandom, *arguments: Any) -> Tensor:
        seen.append(Ledger(ledger.path).open_run("run", stages.events))
        return add(random, *arguments)

    monkeypatch.setattr(SeededRandom, "add_normal", watched)
    session, account = session_on(images, stages, BUDGET, ledger=ledger)
    select(session, images, Trials())
    assert seen
    assert set(seen) == {stages.events}
    assert account.left(stages.events[0]) == 0


@pytest.mark.parametrize("fail_at", [1, 2])
def test_an_interrupted_selection_goes_on_with_the_very_same_trials(
    images: Images, tmp_path: Path, fail_at: int
) -> None:
    ledger = Ledger.for_dataset(tmp_path / "ledger.jsonl", images.digest, len(images))
    stages, memory, first, later = selection(images, 9.0), Memory(), Trials(fail_at), Trials()
    options: dict[str, Any] = {"ledger": ledger, "checkpoints": memory}
    session, _ = session_on(images, stages, BUDGET, random=SecureRandom(), **options)
    with pytest.raises(KeyboardInterrupt):
        select(session, images, first)
    assert memory.kept is not None
    kept = {name: tensor.clone() for name, tensor in memory.kept.items()}
    resumed, account = session_on(images, stages, BUDGET, random=SecureRandom(), **options)
    best = select(resumed, images, later)
    # The trial that was interrupted is the same again, and none of those before it is repeated.
    assert later.drawn[0][0] == first.drawn[-1][0]
    assert torch.equal(later.drawn[0][1], first.drawn[-1][1])
    whole = [*first.drawn[:-1], *later.drawn]
    assert best["score"] == max(noise[0] for _, noise in whole)
    assert account.spent == stages.events
    # A third time from the same checkpoint is the same selection, not another.
    memory.kept, third = kept, Trials()
    assert torch.equal(
        select(session_on(images, stages, BUDGET, **options)[0], images, third)["rest"], best["rest"]
    )
    assert len(third.drawn) == len(later.drawn)


def test_a_selection_whose_key_is_lost_is_not_made_again(images: Images) -> None:
    stages, trials = selection(images), Trials()
    session, account = session_on(images, stages, BUDGET)
    account.record(stages.events[0])
    with pytest.raises(
        InputError, match="paid for, but the key of its trials is lost; its budget stays spent"
    ):
        select(session, images, trials)
    assert not trials.drawn


def test_a_candidate_that_cannot_be_used_costs_nothing(images: Images) -> None:
    session, account = session_on(images, selection(images), BUDGET)

    def run(candidate: int, trial: Session) -> dict[str, Tensor]:
        if candidate == 2:
            raise InputError("this candidate has no network")
        return Trials()(candidate, trial)

    with pytest.raises(InputError, match="no network"):
        session.select(0, partial(trial_of, images), run)
    assert account.spent == ()


def test_a_trial_is_held_to_its_stages(images: Images) -> None:
    def run(candidate: int, trial: Session) -> dict[str, Tensor]:
        stages = trial_of(images, candidate)
        account = trial.opened_account()
        assert account.planned == stages.events
        found = Trials()(candidate, trial)
        account.record(stages.events[0])
        return found

    session, _ = session_on(images, selection(images), BUDGET)
    with pytest.raises(InputError, match="holds 0 more releases"):
        session.select(0, partial(trial_of, images), run)


# Candidates ------------------------------------------------------------------------------------------------


@pytest.fixture
def tuned() -> Tuned:
    return Tuned(find_method("dp-sgd"), Search({"steps": [3, 12], "learning_rate": [0.1, 0.2]}, 4.0))


def test_every_candidate_is_within_the_budget_and_no_better_than_it_must_be(
    tuned: Tuned, images: Images
) -> None:
    facts = facts_of(images)
    config = tuned.default_config(facts, BUDGET, CPU, LINEAR)
    stages = calibrate(partial(tuned.stages, config, facts), facts.num_examples, BUDGET)
    (event,) = stages.events
    assert isinstance(event, SelectionEvent)
    assert 0.98 * BUDGET.epsilon <= stages.epsilon == epsilon([event], BUDGET.delta) <= BUDGET.epsilon
    assert 0.98 < stages.noise_multiplier < 1.1
    of_each = [
        tuned.stages_of(config, facts, stages.noise_multiplier, candidate).events
        for candidate in range(len(config.candidates))
    ]
    assert len(of_each) == 4
    assert len(event.trials) == 2, "rates cost nothing, so that there are two kinds of trials"
    assert event == SelectionEvent.of(of_each, 4.0)
    for events in of_each:
        alone = epsilon([SelectionEvent.of([events], 4.0)], BUDGET.delta)
        assert 0.9 * BUDGET.epsilon <= alone <= stages.epsilon


def test_what_is_not_searched_follows_from_what_a_trial_may_spend(images: Images) -> None:
    search = Search({"steps": [20, 40]}, 8.0)
    method, facts = find_method("dp-randp"), facts_of(images)
    pixels = {"encoder": "pixels", "encoder_options": {"size": 4}}
    config = Tuned(method, search).default_config(facts, Budget(1.0, 1e-3), CPU, pixels)
    alone = method.default_config(facts, Budget(1.0, 1e-3), CPU, {**pixels, "steps": 20})
    assert config.candidates[0]["learning_rate"] < alone.learning_rate


def test_the_score_is_as_accuracy_counts_and_one_image_moves_it_by_one(images: Images) -> None:
    model = build_classifier("linear", image_shape=images.shape, class_names=images.class_names)
    found = images_right(model, images)
    assert found == accuracy(model, images).correct
    for left_out in range(0, len(images), 7):
        others = images.subset([number for number in range(len(images)) if number != left_out])
        assert 0 <= found - images_right(model, others) <= 1
        assert images.labels is not None
        labels = images.labels.clone()
        labels[left_out] = 1 - labels[left_out]
        assert abs(found - images_right(model, replace(images, labels=labels))) == 1


class Moody(nn.Module):
    """Turns its logits round where the rows are even in number: rounding may do so to two that are near."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.stack([x[..., :8].sum(dim=(1, 2, 3)), x[..., 8:].sum(dim=(1, 2, 3))], dim=1)
        return -logits if len(x) % 2 == 0 else logits


def test_who_else_there_is_changes_no_image_s_share_of_the_score(images: Images) -> None:
    model = Classifier(Moody(), images.class_names, images.shape)
    found = images_right(model, images)
    assert abs(found - images_right(model, images.subset(range(len(images) - 1)))) <= 1


def test_a_method_without_a_classifier_has_no_score() -> None:
    with pytest.raises(InputError, match="dp-mepf makes no classifier"):
        Tuned(find_method("dp-mepf"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "nothing to tune"),
        ({"steps": [3]}, "two or more values, all different"),
        ({"steps": [3, 3]}, "two or more values, all different"),
        ({"steps": 3}, "two or more values, all different"),
        ({"pool": ["a", "b"]}, "a pool cannot be searched"),
        ({"class_weight": ["none", "balanced"]}, "class_weight cannot be searched"),
        (
            {"steps": list(range(1, 20)), "learning_rate": list(range(1, 20))},
            "361 combinations are more than",
        ),
    ],
)
def test_searches_that_cannot_be(values: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Search(values)
