"""The release card: what was released, under which guarantee, and what the guarantee does not cover.

Only public facts enter it: settings, the account, N, shapes and class names. No loss, norm, digest or count
of the private images does.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from dpvision.evaluation import Accuracy
from dpvision.methods import Calibrated
from dpvision.networks import Classifier
from dpvision.privacy import Account, Budget, Event, PublicFacts, RandomSource
from dpvision.privacy.group_privacy import group_epsilons
from dpvision.privacy.strength import strength
from dpvision.reports.guarantee_file import FIXED_SEED, events_of, in_words

TRAINING_TIME = "training time, to one digit: it depends on how many images the batches happened to hold"
TEST_IMAGES = "test images, for the test accuracy: the guarantee does not cover them"
OF_A_CARD = (TRAINING_TIME, TEST_IMAGES)
"""What no guarantee covers of a card itself, and so not of what is made of its release."""

_BY_PLD = "privacy loss distributions (PLD)"
_BY_RDP = "Rényi differential privacy, for a selection is composed by it alone"


def release_card(
    guarantee: Mapping[str, Any],
    *,
    made: Mapping[str, Any],
    method: str,
    config: Any,
    model: Classifier,
    fitting: Mapping[str, Any],
    pool: Mapping[str, Any] | None,
    training_seconds: float,
    test: Accuracy | None,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the card of a classifier as JSON types.

    Args:
        guarantee: the guarantee of the run, see :func:`guarantee`.
        made: the day on which the run began, a command that makes such a run, and what the private images are
            called: "began", "command" and "data_name".
        method, config: those of the training.
        model: what is released.
        fitting: how images are made to fit it: the choices "resize" and "value_range" of `Choices`.
        pool: public images that the private ones were mixed with, as the card has them.
        training_seconds: rounded to one digit, for its last ones depend on the sizes of the batches.
        test: the accuracy on the test images.
        more: what the method has to say; it may take back what is here.
    """
    reads = []
    if "training_seconds" not in more:
        reads.append(TRAINING_TIME)
    if test is not None:
        reads.append(TEST_IMAGES)
    return {
        **guarantee,
        "strength": strength_of({**guarantee, "pool": pool}),
        "made": dict(made),
        "not_covered": [*reads, *guarantee["not_covered"]],
        "method": method,
        "config": asdict(config),
        "model": {
            "network": model.config["network"] if model.config else type(model.network).__name__,
            # What was known before the first private image: public, or no guarantee covers it.
            "encoder": (model.config or {}).get("encoder"),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "image_shape": list(model.image_shape),
            "class_names": list(model.class_names),
            **fitting,
        },
        "pool": pool,
        "training_seconds": _one_digit(training_seconds),
        "test": None if test is None else _test(test),
        **more,
        "versions": versions(),
    }


def strength_of(guarantee: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the releases of a guarantee give away; see :func:`dpvision.privacy.strength.strength`.

    Where its "pool" was made of private images by a run that protects the same, "with_pool" has what both
    give away of whoever is among the images of both; else it is None.
    """
    events = [Event.from_json(one["event"]) for one in events_of(guarantee)]
    budget = Budget(guarantee["target_epsilon"], guarantee["delta"], guarantee["neighboring_relation"])
    of_pool, with_pool = (guarantee.get("pool") or {}).get("guarantee"), None
    if of_pool and of_pool["with_this_run"]:
        both = strength([*(Event.from_json(one["event"]) for one in events_of(of_pool)), *events], budget)
        with_pool = {name: both[name] for name in ("true_positive_rates", "odds", "certainty")}
    return {**strength(events, budget), "with_pool": with_pool}


def guarantee(
    account: Account,
    stages: Calibrated,
    random: RandomSource,
    facts: PublicFacts,
    chosen_size: int | None,
    lost_steps: int = 0,
    overlaps: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe a run's guarantee, as JSON types.

    Args:
        account: the run's account; what it has spent is what the card states.
        stages: the run's stages, which say what its mechanisms were.
        random: the source of batches and noise.
        facts: what is public about the images.
        chosen_size: the image size, if it was chosen by looking at the sizes of the private images.
        lost_steps: releases that were paid for but whose result was lost with an interrupted process.
        overlaps: uses of private images outside the guarantee, which the owner has allowed.
    """
    broken_by = [*([] if random.is_private else [FIXED_SEED]), *overlaps]
    budget = account.budget
    samplers = dict.fromkeys(
        stage.mechanism.sampler.in_words.format(unit=facts.unit) for stage in stages.stages
    )
    return {
        "is_private": not broken_by,
        "not_private_because": broken_by,
        "epsilon": account.epsilon_spent("pld"),
        "delta": budget.delta,
        "neighboring_relation": budget.neighboring_relation,
        "unit": facts.unit,
        **in_words(budget.neighboring_relation, facts.unit, broken_by),
        "target_epsilon": budget.epsilon,
        "accountant": {
            "epsilon_by": accounted_by(account.spent),
            "version": f"dp-accounting {version('dp-accounting')}",
            "epsilon_by_rdp": account.epsilon_spent("rdp"),
        },
        "mechanisms": [
            {
                "name": f"{event.noise} on {', and on '.join(releases)}",
                "sensitivity": sensitivity,
                **event.facts(),
            }
            for event, sensitivity, releases in _mechanisms(account, stages)
        ],
        "events": [
            {"name": ", and ".join(releases), "sensitivity": sensitivity, "event": event.to_json()}
            for event, sensitivity, releases in _mechanisms(account, stages)
        ],
        "groups": _groups(account) if facts.unit == "image" else [],
        "num_examples": facts.num_examples,
        "sampler": "; ".join(samplers),
        "lost_steps": lost_steps,
        "taken_as_public": [
            f"number of {'training images' if facts.unit == 'image' else 'units'}: {facts.num_examples}",
            f"image shape (channels, height, width): {list(facts.image_shape)}",
            *([f"class names: {', '.join(facts.class_names)}"] if facts.class_names else []),
        ],
        "not_covered": (
            []
            if chosen_size is None
            else [f"sizes of the images, from which the size {chosen_size} was chosen"]
        ),
    }


def accounted_by(events: Sequence[Event]) -> str:
    """Say by what account the ε of these events is stated."""
    return _BY_PLD if all(event.has_pair for event in events) else _BY_RDP


def _groups(account: Account) -> list[dict[str, Any]]:
    """Return the ε of a person with several images; None where it says nothing any more."""
    budget = account.budget
    found = group_epsilons(account.spent, budget.delta, budget.neighboring_relation)
    return [
        {"images": size, "epsilon": epsilon if epsilon < math.inf else None}
        for size, epsilon in found.items()
    ]


def versions() -> dict[str, str]:
    """Return the versions of what the guarantee was computed, and the card drawn, with."""
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in ("dpvision", "torch", "dp-accounting", "matplotlib")},
    }


def _mechanisms(account: Account, stages: Calibrated) -> Iterator[tuple[Event, float, list[str]]]:
    """Yield each kind of event that was spent, with the sensitivity and the names of what it released."""
    for event in account.spent:
        same = [s for s in stages.stages if s.event.single == event.single]
        yield event, same[0].mechanism.sensitivity, sorted({stage.releases for stage in same})


def _test(test: Accuracy) -> dict[str, Any]:
    low, high = test.interval
    return {
        "accuracy": test.value,
        "interval_95": [low, high],
        "correct": test.correct,
        "total": test.total,
    }


def _one_digit(seconds: float) -> float:
    return float(f"{seconds:.0e}")
