"""The release card: what was released, under which guarantee, and what the guarantee does not cover.

Only public facts enter it: settings, the account, N, shapes and class names. No loss, norm, digest or count
of the private images does.
"""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import jinja2

from dpvision.evaluation import Accuracy
from dpvision.methods.dp_sgd import DPSGDConfig
from dpvision.networks import Classifier
from dpvision.privacy import Account, PoissonSampler, RandomSource

RELATIONS = {
    "add_or_remove_one": "data sets that differ by the presence of one image",
    "replace_one": "data sets that differ by the content of one image",
}


def release_card(
    *,
    account: Account,
    sampler: PoissonSampler,
    random: RandomSource,
    config: DPSGDConfig,
    model: Classifier,
    chosen_size: int | None,
    lost_steps: int,
    training_seconds: float,
    test: Accuracy | None,
) -> dict[str, Any]:
    """The card as JSON types.

    Args:
        account: of the run; what it has spent is what the card states.
        sampler: drew the batches.
        random: where batches and noise came from.
        config: of the training.
        model: what is released.
        chosen_size: the image size, if it was chosen by looking at the sizes of the private images.
        lost_steps: steps that were paid for but whose result was lost with an interrupted process.
        training_seconds: rounded to one digit, for its last ones depend on the sizes of the batches.
        test: the accuracy on the test images.
    """
    budget = account.budget
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
                "name": "Gaussian noise on the sum of clipped gradients",
                "clipping_norm": config.max_grad_norm,
                "noise_multiplier": event.noise_multiplier,
                "sample_rate": event.sample_rate,
                "count": event.count,
            }
            for event in account.spent
        ],
        "sampler": {
            "name": "Poisson: every image enters every batch independently",
            "num_examples": sampler.num_examples,
            "sample_rate": sampler.sample_rate,
            "expected_batch_size": sampler.expected_batch_size,
        },
        "noise": (
            "AES-256 in counter mode, keyed by the operating system's entropy"
            if random.is_private
            else "a fixed seed: whoever knows it removes the noise"
        ),
        "lost_steps": lost_steps,
        "taken_as_public": [
            f"number of training images: {sampler.num_examples}",
            f"image shape (channels, height, width): {list(model.image_shape)}",
            f"class names: {', '.join(model.class_names)}",
        ],
        "not_covered": reads,
        "method": "dp-sgd",
        "config": asdict(config),
        "model": {
            "network": config.network,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "image_shape": list(model.image_shape),
            "class_names": list(model.class_names),
        },
        "training_seconds": _one_digit(training_seconds),
        "test": None if test is None else _test(test),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("dpvision", "torch", "dp-accounting")},
        },
    }


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


def _one_digit(seconds: float) -> float:
    return float(f"{seconds:.0e}")
