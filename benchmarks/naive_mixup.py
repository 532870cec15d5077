"""Mixup across a batch of private examples, measured as what it is: its sensitivity, the ε that it costs at
the noise that would be claimed, and its accuracy at an honest ε.

    python benchmarks/naive_mixup.py DATA [--epsilon 8] [--steps 300] [--batch-size 1024] [--runs 3]

DATA has a test split and is treated as public here: no ledger is written. Mixup gives every example i of a
batch the partner π(i) of a random permutation, and takes the clipped gradient of λ·xᵢ + (1 − λ)·x_π(i).
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor, nn

import dpvision
from dpvision.gradients import ClippedGradient
from dpvision.methods.gradient_descent import cross_entropy
from dpvision.networks import build_classifier
from dpvision.privacy import (
    Budget,
    Event,
    ExampleDraws,
    InputError,
    SecureRandom,
    calibrate_noise_multiplier,
    epsilon,
    gaussian_event,
)
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.sampling import PoissonSampler
from dpvision.training import make_optimizer, schedule_factor
from dpvision.training.ema import ExponentialMovingAverage
from dpvision.views import check_no_leak

Rows = dict[str, Callable[[], float]]

ALPHA = 0.2
DELTA = 1e-5
C = 1.0  # the clipping norm
# One example more joins one mixture as its first image, and replaces the second image of another: the sum of
# clipped gradients gains one of norm C and changes one by up to 2·C.
SENSITIVITY = 3.0
SETTINGS: dict[str, Any] = {
    "learning_rate": 0.4,
    "momentum": 0.9,
    "schedule": "linear",
    "ema_decay": 0.98,
    "max_grad_norm": C,
}


class MixupAcrossTheBatch:
    """What the leak test is there to refuse."""

    views_per_example = 1

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, pixels: Tensor, targets: Tensor, draws: ExampleDraws) -> tuple[Tensor, Tensor]:
        partner = draws.uniform(1)[:, 0].argsort()
        weight = weights(draws.uniform(1)[:, 0])
        return mixtures(pixels, targets, partner, weight, self.num_classes)


def weights(uniform: Tensor) -> Tensor:
    """λ ~ Beta(α, α) ``[B]``, for as many uniform numbers."""
    return torch.from_numpy(betaincinv(ALPHA, ALPHA, uniform.double().numpy())).float()


def mixtures(
    pixels: Tensor, targets: Tensor, partner: Tensor, weight: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """uint8 ``[B, C, H, W]``, ``[B]`` -> ``[B, 1, C, H, W]``, ``[B, 1, num_classes]``."""
    x, y = pixels.float() / 255, F.one_hot(targets, num_classes).float()
    return (
        torch.lerp(x[partner], x, weight[:, None, None, None]).unsqueeze(1),
        torch.lerp(y[partner], y, weight[:, None]).unsqueeze(1),
    )


def without_last(partner: Tensor) -> Tensor:
    """A uniform permutation of n from one of n + 1: the last is cut out of its cycle."""
    last = len(partner) - 1
    return torch.where(partner == last, partner[last], partner)[:last]


def measured_sensitivity(images: dpvision.Images, arguments: argparse.Namespace) -> list[float]:
    """How far apart, in units of C, the sums of clipped gradients are with and without one example: for an
    untrained network, random batches of 32, and draws of the permutation that differ in this example alone.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    num_classes = len(images.class_names)
    model = build_classifier(
        arguments.network, image_shape=images.shape, class_names=images.class_names, options={}
    )
    engine = ClippedGradient(model, cross_entropy, C / 10)  # nearly all are clipped, as late in training
    found = []
    for _ in range(arguments.draws):
        batch = torch.randperm(len(images), generator=generator)[:33]
        pixels, targets = images.pixels[batch], images.labels[batch]
        partner, weight = (
            torch.randperm(33, generator=generator),
            weights(torch.rand(33, generator=generator)),
        )
        everyone = engine.sum(*mixtures(pixels, targets, partner, weight, num_classes)).gradients
        but_one = engine.sum(
            *mixtures(pixels[:-1], targets[:-1], without_last(partner), weight[:-1], num_classes)
        ).gradients
        change = torch.cat([(everyone[name] - but_one[name]).flatten() for name in everyone])
        found.append(float(change.norm()) / engine.max_grad_norm)
    return found


def worst_sensitivity() -> float:
    """The same for three one-pixel images, made for it, and a linear model of two classes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    nn.init.zeros_(model[1].weight)
    engine = ClippedGradient(model, cross_entropy, 0.01)
    pixels = torch.tensor([255, 255, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    targets, partner = torch.tensor([1, 1, 0]), torch.tensor([2, 0, 1])  # 0 with 2, 2 with 1, 1 with 0
    weight = torch.tensor([0.1, 0.5, 0.9])
    everyone = engine.sum(*mixtures(pixels, targets, partner, weight, 2)).gradients
    but_one = engine.sum(*mixtures(pixels[:2], targets[:2], without_last(partner), weight[:2], 2)).gradients
    (name,) = everyone
    return float((everyone[name] - but_one[name]).norm()) / engine.max_grad_norm


def refusal(images: dpvision.Images) -> str:
    """What the leak test says, which every policy passes before it trains."""
    try:
        check_no_leak(MixupAcrossTheBatch(len(images.class_names)), images.shape)
    except InputError as error:
        return str(error)
    raise AssertionError("mixup across the batch went unnoticed")


class NoLedger:
    """The data are public here, so nothing is recorded."""

    def record(self, event: Event) -> None: ...


def train_naively(images: dpvision.Images, arguments: argparse.Namespace, noise: float) -> nn.Module:
    """DP-SGD on mixtures across the batch, with noise of standard deviation noise·C on their sum."""
    torch.manual_seed(secrets.randbits(63))
    num_classes = len(images.class_names)
    model = build_classifier(
        arguments.network, image_shape=images.shape, class_names=images.class_names, options={}
    )
    engine = ClippedGradient(model, cross_entropy, C)
    sampler = PoissonSampler(len(images), arguments.batch_size / len(images))
    mechanism = GaussianSumMechanism(noise / SENSITIVITY, SENSITIVITY * C, sampler)
    optimizer = make_optimizer("sgd", model.parameters(), SETTINGS["learning_rate"], SETTINGS["momentum"])
    average = ExponentialMovingAverage(model, SETTINGS["ema_decay"])
    random = SecureRandom()
    policy = MixupAcrossTheBatch(num_classes)
    for step in range(arguments.steps):
        batch = sampler.sample(random)
        draws = random.by_example().of(batch)
        sums = engine.sum(*policy(images.pixels[batch], images.labels[batch], draws)).gradients
        noisy = mechanism.release(sums, NoLedger(), random)
        for name, parameter in model.named_parameters():
            parameter.grad = noisy[name] / arguments.batch_size
        for group in optimizer.param_groups:
            group["lr"] = SETTINGS["learning_rate"] * schedule_factor(
                SETTINGS["schedule"], step, arguments.steps
            )
        optimizer.step()
        average.update(model, step)
    average.copy_to(model)
    return model


def accuracy(model: nn.Module, images: dpvision.Images) -> float:
    with torch.no_grad():
        predicted = torch.cat([model(some).argmax(dim=1) for some in images.pixels.split(500)])
    return float((predicted == images.labels).float().mean())


def trained(
    images: dpvision.Images, test: dpvision.Images, arguments: argparse.Namespace, **views: int
) -> float:
    """The accuracy of dpvision's own training, with these views, at ε."""
    own = {
        "network": arguments.network,
        "steps": arguments.steps,
        "expected_batch_size": arguments.batch_size,
    }
    with tempfile.TemporaryDirectory() as folder:
        result = dpvision.train(
            images,
            test=test,
            epsilon=arguments.epsilon,
            delta=DELTA,
            config=SETTINGS | views | own,
            out=Path(folder) / "run",
            ledger=Path(folder) / "ledger.jsonl",
        )
    assert result.test_accuracy is not None
    return result.test_accuracy.value


def rows(arguments: argparse.Namespace, images: dpvision.Images, test: dpvision.Images, noise: float) -> Rows:
    """What is compared, each as a function that makes one run and gives its accuracy."""
    pad = images.shape[1] // 8

    def naive(multiplier: float) -> Callable[[], float]:
        return lambda: accuracy(train_naively(images, arguments, multiplier), test)

    return {
        "naive mixup, noise for a sensitivity of one norm": naive(noise),
        "naive mixup, noise for its sensitivity": naive(SENSITIVITY * noise),
        "one view": lambda: trained(images, test, arguments),
        "DP-Mix_Self, 2 + 2 views": lambda: trained(images, test, arguments, augmult=2, pad=pad, k_self=2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--epsilon", type=float, default=8.0)
    parser.add_argument("--network", default="tanh-cnn")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3, help="of each row")
    parser.add_argument("--draws", type=int, default=200, help="to measure the sensitivity on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    images = dpvision.open_images(arguments.data)
    test = dpvision.open_images(arguments.data, "test")

    rate = arguments.batch_size / len(images)
    noise = calibrate_noise_multiplier(
        lambda sigma: [gaussian_event(sigma, rate, arguments.steps)], Budget(arguments.epsilon, DELTA)
    )
    measured = measured_sensitivity(images, arguments)
    found: dict[str, Any] = {
        "refusal": refusal(images),
        "sensitivity": {
            "bound": SENSITIVITY,
            "made_for_it": worst_sensitivity(),
            "greatest": max(measured),
            "mean": mean(measured),
        },
        "epsilon": {
            "claimed": arguments.epsilon,
            "real": epsilon([gaussian_event(noise / SENSITIVITY, rate, arguments.steps)], DELTA),
        },
        "accuracies": {
            name: [run() for _ in range(arguments.runs)]
            for name, run in rows(arguments, images, test, noise).items()
        },
    }
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"as a view policy it is refused: {found['refusal']}\n")
    sensitivity, costs = found["sensitivity"], found["epsilon"]
    print(f"sensitivity, in clipping norms: at most {SENSITIVITY:g} by the argument above;")
    print(f"  {sensitivity['mean']:.2f} on average and {sensitivity['greatest']:.2f} at most on the data;")
    print(f"  {sensitivity['made_for_it']:.2f} for three images made for it\n")
    print(f"a noise multiplier of {noise:.3f} is ε = {costs['claimed']:g} for a sensitivity of one norm;")
    print(f"  here it costs ε = {costs['real']:.3g}\n")
    for name, accuracies in found["accuracies"].items():
        spread = f" ± {100 * stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        print(f"{name:50} {100 * mean(accuracies):.2f}{spread} %  ({len(accuracies)} runs)")


if __name__ == "__main__":
    main()
