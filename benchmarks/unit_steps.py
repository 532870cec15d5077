"""Whether a step takes longer with units of one image than with images: it should not.

    python benchmarks/unit_steps.py

Steps by turns of a trainer of random images, and of the same images as units of one each: of a head on
features, and of WRN-16-4 with K = 16 views, all images in every step. Each line has the median seconds of a
step of both, and their ratio.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from dpvision.gradients import ClippedGradient
from dpvision.images import Images
from dpvision.images.units import Units
from dpvision.methods.gradient_descent import cross_entropy
from dpvision.networks import build_classifier
from dpvision.privacy import (
    Account,
    Budget,
    FullBatch,
    GaussianSumMechanism,
    SecureRandom,
)
from dpvision.privacy.sampling import Sampler
from dpvision.training import Examples, Phase, PrivateTrainer, Rows
from dpvision.views import SelfAugmentation, Unchanged, ViewPolicy

CLASSES = 10
ENOUGH = Budget(1e6, 1e-5)


def stepper(
    model: nn.Module,
    examples: Examples,
    labels: Tensor,
    policy: ViewPolicy,
    sampler: Sampler,
    units: Units | None,
    steps: int,
) -> Callable[[], object]:
    """Return a function that takes a step."""
    engine = ClippedGradient(
        model, cross_entropy, 1.0, expected_batch_size=sampler.expected_batch_size, engine="by-size"
    )
    trainer = PrivateTrainer(
        model,
        examples,
        labels,
        policy=policy,
        engine=engine,
        mechanism=GaussianSumMechanism(1.0, 1.0, sampler),
        phases=[Phase(steps, "sgd", 0.1)],
        ema_decay=0.9,
        random=SecureRandom(),
        units=units,
        num_classes=CLASSES,
    )
    account = Account(ENOUGH, None, "benchmark", [sampler.event(1.0, steps)])
    account.open()
    return lambda: trainer.step(account)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=20_000, help="images of the head on features")
    parser.add_argument("--steps", type=int, default=12, help="of each, after two that are not counted")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(options.features, 2048, generator=generator)
    pixels = torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8, generator=generator)
    for name in ("head on features", "wrn-16-4, K = 16"):
        steppers, count = [], len(rows) if name.startswith("head") else len(pixels)
        labels = torch.randint(CLASSES, (count,), generator=generator)
        for units in (None, Units(torch.arange(count), tuple(map(str, range(count))))):
            if name.startswith("head"):
                case = (nn.Linear(2048, CLASSES), Rows(rows), labels, Unchanged(), FullBatch(count))
            else:
                names = tuple(map(str, range(CLASSES)))
                model = build_classifier("wrn-16-4", image_shape=(3, 32, 32), class_names=names)
                images = Images(pixels, labels, names, "random images")
                case = (model, images, labels, SelfAugmentation(16), FullBatch(count))
            steppers.append(stepper(*case, units, options.steps + 2))
        seconds: list[list[float]] = [[], []]
        for _ in range(options.steps + 2):
            for step, found in zip(steppers, seconds, strict=True):
                started = perf_counter()
                step()
                found.append(perf_counter() - started)
        images_, units_ = (median(found[2:]) for found in seconds)
        print(f"{name:18} images {images_:.3f} s, units of one {units_:.3f} s: {units_ / images_:.2f}")


if __name__ == "__main__":
    main()
