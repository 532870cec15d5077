"""Estimate the time and memory that training will take, from trials on random images."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from dpvision.gradients.chunks import bytes_per_example
from dpvision.methods.gradient_descent import GradientSettings, clipped_gradient
from dpvision.networks import Classifier
from dpvision.privacy.noise import SeededRandom

PROBE_SECONDS = 1.0


@dataclass(frozen=True)
class Estimate:
    """The time and memory that training takes, estimated from a trial of a second or so.

    Attributes:
        seconds: the time of training, start-up included.
        memory_bytes: the memory of training, the images included.
    """

    seconds: float
    memory_bytes: int


def seconds_per_step(settings: GradientSettings, model: Classifier) -> float:
    """Measure the time of views and clipped gradients of a full batch, in seconds, on part of one."""
    device = model.normalize.mean.device
    engine = clipped_gradient(model, settings)
    policy = settings.stand_in_views(model.image_shape, len(model.class_names))
    generator = torch.Generator().manual_seed(0)

    def run(examples: int) -> float:
        pixels = torch.randint(
            256, (examples, *model.image_shape), generator=generator, dtype=torch.uint8
        ).to(device)
        targets = torch.zeros(examples, dtype=torch.int64, device=device)
        started = time.perf_counter()
        draws = SeededRandom(0).by_example().of(torch.arange(examples))
        sums = engine.sum(*policy(pixels, targets, draws))
        sums.norms.sum().item()  # waits for the device
        return time.perf_counter() - started

    run(1)  # the check of the network, the first memory
    examples = min(engine.chunk, settings.expected_batch_size)
    seconds = run(examples)
    while seconds < PROBE_SECONDS / 4 and examples < settings.expected_batch_size:
        examples = min(examples * 4, settings.expected_batch_size)
        seconds = run(examples)
    return seconds * settings.expected_batch_size / examples


def training_memory(settings: GradientSettings, model: Classifier, num_examples: int) -> int:
    """Return the bytes that training the whole model takes, its images included."""
    device = model.normalize.mean.device
    policy = settings.stand_in_views(model.image_shape, len(model.class_names))
    views = torch.zeros(1, policy.views_per_example, *model.image_shape, device=device)
    engine = clipped_gradient(model, settings)
    chunk = min(engine.memory_limit(device), settings.expected_batch_size * bytes_per_example(model, views))
    channels, height, width = model.image_shape
    pixels = num_examples * channels * height * width
    weights = 4 * sum(p.numel() for p in model.parameters())
    return 2 * pixels + chunk + 6 * weights
