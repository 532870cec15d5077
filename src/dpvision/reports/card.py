"""The release card: what was released, under which guarantee, and what the guarantee does not cover.

Only public facts enter it: settings, the account, N, shapes and class names. No loss, norm, digest or count
of the private images does.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2

from dpvision.evaluation import Accuracy
from dpvision.methods import TrainingPlan
from dpvision.networks import Classifier
from dpvision.privacy import Account, GaussianEvent, RandomSource
from dpvision.views import Pool

RELATIONS = {
    "add_or_remove_one": "data sets that differ by the presence of one image",
    "replace_one": "data sets that differ by the content of one image",
}


def release_card(
    *,
    account: Account,
    plan: TrainingPlan,
    random: RandomSource,
    method: str,
    config: Any,
    model: Classifier,
    chosen_size: int | None,
    pool: Pool | None,
    lost_steps: int,
    training_seconds: float,
    test: Accuracy | None,
) -> dict[str, Any]:
    """The card as JSON types.

    Args:
        account: of the run; what it has spent is what the card states.
        plan: of the run, for what its mechanisms were.
        random: where batches and noise came from.
        method, config: of the training.
        model: what is released.
        chosen_size: the image size, if it was chosen by looking at the sizes of the private images.
        pool: public images that the private ones were mixed with.
        lost_steps: releases that were paid for but whose result was lost with an interrupted process.
        training_seconds: rounded to one digit, for its last ones depend on the sizes of the batches.
        test: the accuracy on the test images.
    """
    budget = account.budget
    num_examples = plan.stages[0].mechanism.sampler.num_examples
    reads = ["training time, to one digit: it depends on how many images the batches happened to hold"]
    if chosen_size is not None:
        reads.append(f"sizes of the images, from which the size {chosen_size} was chosen")
    if test is not None:
        reads.append("test images, for the test accuracy: the guarantee does not cover them")
    return {
        "is_private": random.is_private,
        "epsilon": account.epsilon_spent("pld"),
        "delta": budget.delta,
        "neighboring_relation": budget.neighboring_relation,
        "neighbours": RELATIONS[budget.neighboring_relation],
        "target_epsilon": budget.epsilon,
        "accountant": {
            "epsilon_by": "privacy loss distributions (PLD)",
            "epsilon_by_rdp": account.epsilon_spent("rdp"),
        },
        "mechanisms": [
            {
                "name": f"Gaussian noise on {', and on '.join(releases)}",
                "sensitivity": sensitivity,
                "noise_multiplier": event.noise_multiplier,
                "sample_rate": event.sample_rate,
                "count": event.count,
            }
            for event, sensitivity, releases in _mechanisms(account, plan)
        ],
        "sampler": "Poisson: every image enters every batch independently, at the mechanism's sample rate",
        "num_examples": num_examples,
        "noise": (
            "AES-256 in counter mode, keyed by the operating system's entropy"
            if random.is_private
            else "a fixed seed: whoever knows it removes the noise"
        ),
        "lost_steps": lost_steps,
        "taken_as_public": [
            f"number of training images: {num_examples}",
            f"image shape (channels, height, width): {list(model.image_shape)}",
            f"class names: {', '.join(model.class_names)}",
        ],
        "not_covered": reads,
        "method": method,
        "config": asdict(config),
        "model": {
            "network": model.config["network"] if model.config else type(model.network).__name__,
            # What was known before the first private image: public, or no guarantee covers it.
            "encoder": (model.config or {}).get("encoder"),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "image_shape": list(model.image_shape),
            "class_names": list(model.class_names),
        },
        "pool": None if pool is None else _pool(pool),
        "training_seconds": _one_digit(training_seconds),
        "test": None if test is None else _test(test),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("dpvision", "torch", "dp-accounting")},
        },
    }


def _mechanisms(account: Account, plan: TrainingPlan) -> Iterator[tuple[GaussianEvent, float, list[str]]]:
    """Each kind of event that was spent, with the sensitivity and the names of what it released."""
    for event in account.spent:
        same = [s for s in plan.stages if replace(s.event, count=1) == replace(event, count=1)]
        yield event, same[0].mechanism.sensitivity, sorted({stage.releases for stage in same})


def card_markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    template = files("dpvision.reports").joinpath("card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(card)


def _test(test: Accuracy) -> dict[str, Any]:
    low, high = test.interval
    return {
        "accuracy": test.value,
        "interval_95": [low, high],
        "correct": test.correct,
        "total": test.total,
    }


def _pool(pool: Pool) -> dict[str, Any]:
    return {"images": len(pool), "digest": pool.digest, "provenance": pool.provenance}


def _one_digit(seconds: float) -> float:
    return float(f"{seconds:.0e}")
