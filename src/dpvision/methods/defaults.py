"""What to train when the user does not say: settings that suit the data's public facts, the budget and the
machine.

Only N, the image shape, the number of classes and random stand-in images are looked at, so that the choice
costs no budget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dpvision.gradients import ClippedGradient
from dpvision.gradients.clipped import bytes_per_example
from dpvision.methods.dp_sgd import DPSGDConfig
from dpvision.methods.gradient_descent import cross_entropy
from dpvision.methods.settings import with_overrides
from dpvision.networks import TanhCNN, build_classifier
from dpvision.privacy.budget import Budget

# A newcomer's first run should end while they watch.
DEFAULT_SECONDS = 180.0
PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Estimate:
    """seconds: of training, start-up included; memory_bytes: of training, the images included. From a trial
    of a second or so.
    """

    seconds: float
    memory_bytes: int


def default_config(
    num_examples: int,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    budget: Budget,
    device: torch.device | str,
    overrides: Mapping[str, Any],
) -> DPSGDConfig:
    """A full configuration: ``overrides`` where given, the rest chosen so that training takes minutes on this
    machine.

    Raises:
        InputError: an override does not exist or is out of range.
    """
    config = with_overrides(_starting_point(num_examples, image_shape, budget, device), overrides)
    if "steps" in overrides:
        return config
    per_step = _seconds_per_step(config, image_shape, class_names, device)
    affordable = max(20, int(DEFAULT_SECONDS / per_step))
    return with_overrides(config, {"steps": min(config.steps, affordable)})


def _starting_point(
    num_examples: int, image_shape: tuple[int, int, int], budget: Budget, device: torch.device | str
) -> DPSGDConfig:
    channels, height, width = image_shape
    side = min(height, width)
    # More steps than the privacy budget can use only cost time.
    steps = int(200 * (1 + min(budget.epsilon, 8.0)))
    if side < TanhCNN.SMALLEST_SIDE or num_examples < 4000:
        # Few examples pay for few parameters: noise in every coordinate outweighs what a network could learn.
        network, learning_rate, momentum = "linear", 0.5, 0.0
    elif torch.device(device).type == "cuda":  # De et al.'s recipe
        return DPSGDConfig(
            network="wrn-16-4",
            steps=steps,
            expected_batch_size=min(num_examples // 8, 4096),
            augmult=16,
            pad=side // 8,
            flip=channels == 3,
            learning_rate=2.0,
        )
    else:
        network, learning_rate, momentum = "tanh-cnn", 0.4, 0.9
    return DPSGDConfig(
        network=network,
        steps=steps,
        expected_batch_size=max(1, min(num_examples // 8, 1024)),
        augmult=1,
        pad=0,
        flip=False,
        learning_rate=learning_rate,
        momentum=momentum,
        schedule="linear",
        ema_decay=0.98,
    )


def estimate(
    config: DPSGDConfig,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    num_examples: int,
    device: torch.device | str,
) -> Estimate:
    """Expected time and memory of a run, from a trial on random images. InputError as
    :func:`build_classifier`.
    """
    seconds = config.steps * _seconds_per_step(config, image_shape, class_names, device)
    model = build_classifier(
        config.network, image_shape=image_shape, class_names=class_names, options=config.network_options
    )
    pixels = num_examples * image_shape[0] * image_shape[1] * image_shape[2]
    views = torch.zeros(1, config.augmult, *image_shape)
    engine = ClippedGradient(model.to(device), cross_entropy, config.max_grad_norm)
    chunk = min(
        engine.memory_limit(torch.device(device)),
        config.expected_batch_size * bytes_per_example(model, views.to(device)),
    )
    weights = 4 * sum(p.numel() for p in model.parameters())
    return Estimate(seconds, 2 * pixels + chunk + 6 * weights)


def _seconds_per_step(
    config: DPSGDConfig,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    device: torch.device | str,
) -> float:
    """The time of views and clipped gradients of a full batch, measured on part of one."""
    model = build_classifier(
        config.network, image_shape=image_shape, class_names=class_names, options=config.network_options
    ).to(device)
    engine = ClippedGradient(model, cross_entropy, config.max_grad_norm, precision=config.precision)
    policy = config.views()
    generator = torch.Generator().manual_seed(0)

    def run(examples: int) -> float:
        pixels = torch.randint(256, (examples, *image_shape), generator=generator, dtype=torch.uint8).to(
            device
        )
        targets = torch.zeros(examples, dtype=torch.int64, device=device)
        started = time.perf_counter()
        sums = engine.sum(*policy(pixels, targets, generator))
        sums.norms.sum().item()  # waits for the device
        return time.perf_counter() - started

    examples = 1
    run(examples)  # the check of the network, the first memory
    seconds = run(examples)
    while seconds < PROBE_SECONDS / 4 and examples < config.expected_batch_size:
        examples = min(examples * 4, config.expected_batch_size)
        seconds = run(examples)
    return seconds * config.expected_batch_size / examples
