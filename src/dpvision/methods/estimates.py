"""Estimate the time and memory that training will take, from trials on random images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from dpvision.gradients import ClippedGradient
from dpvision.methods.gradient_descent import GradientSettings, clipped_gradient
from dpvision.networks import Classifier
from dpvision.networks.by_row import by_row, rows_at_a_time
from dpvision.networks.image_generator import ImageGenerator
from dpvision.priors.encoders.process_images import BATCH, PROCESSES, process_images
from dpvision.privacy.noise import SecureRandom, SeededRandom

PROBE_SECONDS = 1.0
PROCESS_IMAGES_TRIED = BATCH * len(PROCESSES)


@dataclass(frozen=True)
class Estimate:
    """The time and memory that learning takes, estimated from a trial of some seconds.

    Attributes:
        seconds: the time of learning.
        memory_bytes: the memory that it takes beside what the trial itself took: for the images, and for what
            is kept of all of them.
        seconds_per_image: the time that the model takes for an image: to evaluate it, or to make it.
    """

    seconds: float
    memory_bytes: int
    seconds_per_image: float = 0.0


def training_seconds(settings: GradientSettings, model: Classifier, steps: int) -> float:
    """Measure the time of ``steps`` steps, in seconds, that of the start included: checks of the network, and
    the choice of how gradients are computed.
    """
    start, per_step = _start_and_step(settings, model)
    return start + steps * (per_step + seconds_per_release(model))


def seconds_per_step(settings: GradientSettings, model: Classifier) -> float:
    """Measure the time of views and clipped gradients of a full batch, in seconds, on part of one."""
    return _start_and_step(settings, model)[1]


def _start_and_step(settings: GradientSettings, model: Classifier) -> tuple[float, float]:
    device = model.normalize.mean.device
    policy = settings.stand_in_views(model.image_shape, len(model.class_names))
    generator = torch.Generator().manual_seed(0)

    def views(examples: int) -> tuple[Tensor, Tensor]:
        shape = (examples, *model.image_shape)
        pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)
        targets = torch.zeros(examples, dtype=torch.int64, device=device)
        return policy(pixels, targets, SeededRandom(0).by_example().of(torch.arange(examples)))

    start, per_example = start_and_example(
        clipped_gradient(model, settings), views, settings.expected_batch_size
    )
    return start, settings.expected_batch_size * per_example


def start_and_example(
    engine: ClippedGradient, views: Callable[[int], tuple[Tensor, Tensor]], expected_batch_size: int
) -> tuple[float, float]:
    """Measure the time of the first batch beyond its gradients, and that of an example's views and clipped
    gradient in a batch, in seconds.

    views: gives views ``[n, K, …]`` and targets of n examples.
    """

    def run(examples: int) -> float:
        started = perf_counter()
        engine.sum(*views(examples)).norms.sum().item()  # waits for the device
        return perf_counter() - started

    start = run(1)  # the check of the network, and a chunk
    examples = min(engine.chunk, expected_batch_size)
    run(examples)  # the first memory
    seconds = run(examples)
    start -= min(start, seconds)
    while seconds < PROBE_SECONDS / 2 and examples < expected_batch_size:
        examples = min(examples * 4, expected_batch_size)
        seconds = run(examples)
    return start, seconds / examples


def seconds_per_release(model: torch.nn.Module) -> float:
    """Measure the time of what a step does once, whatever the batch: noise for all that is trained, and the
    steps of optimiser and average, which take about as many passes over the weights as there are in these.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    started = perf_counter()
    for parameter in trained:
        noisy = SecureRandom().normal(parameter.shape).to(parameter.device)
        for _ in range(4):
            noisy = noisy * 0.5 + parameter.detach()
    return perf_counter() - started


def seconds_of_process_images(count: int, image_shape: tuple[int, int, int]) -> float:
    """Measure the time that so many images of random processes take, in seconds."""
    if not count:
        return 0.0
    for seed in (1, 2):  # the first takes longer; what one seed has made is kept
        started = perf_counter()
        list(process_images(image_shape, PROCESS_IMAGES_TRIED, seed))
    return count * (perf_counter() - started) / PROCESS_IMAGES_TRIED


def seconds_per_drawing(generator: ImageGenerator) -> float:
    """Measure the time that a generator takes for an image, in seconds."""
    count = 2 * rows_at_a_time(generator.class_proportions.device)
    generator.sample(1)  # the first takes longer
    started = perf_counter()
    generator.sample(count)
    return (perf_counter() - started) / count


def seconds_per_prediction(model: Classifier) -> float:
    """Measure the time of an image's prediction, in seconds."""
    device = model.normalize.mean.device
    count = 2 * rows_at_a_time(device)
    pixels = torch.randint(256, (count, *model.image_shape), dtype=torch.uint8)
    with torch.no_grad():
        list(by_row(model, pixels.split, model.image_shape, device))  # the first memory
        started = perf_counter()
        list(by_row(model, pixels.split, model.image_shape, device))
    # with the two batches of `by_row`'s own trial
    return (perf_counter() - started) / (2 * count)


def training_memory(model: Classifier, num_examples: int) -> int:
    """Return the bytes that training the whole model takes beside a step: its images, twice while they are
    read, and its weights' average, optimiser and noise.
    """
    channels, height, width = model.image_shape
    return 2 * num_examples * channels * height * width + 6 * 4 * sum(p.numel() for p in model.parameters())
