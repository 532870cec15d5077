"""Train a denoiser without privacy, on images that cost nothing: of random processes, or of a release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.networks.denoiser import Denoiser, squared_error
from dpvision.networks.precision import Precision, resolve_precision
from dpvision.priors.encoders.process_images import process_images
from dpvision.privacy.noise import RandomSource, SeededRandom
from dpvision.training import ExponentialMovingAverage, schedule_factor
from dpvision.views import NoisyViews

MOST_PROCESS_IMAGES = 8192
EMA_DECAY = 0.995
BATCH = 128
SEED = 0
"""The seed of all that is drawn here: it protects nobody."""


def public_images(count: int, shape: tuple[int, int, int], tell: Callable[[int, int], None]) -> Tensor:
    """Generate images of random processes: uint8 ``[count, C, H, W]``, at most `MOST_PROCESS_IMAGES`."""
    count, made, done = min(count, MOST_PROCESS_IMAGES), [], 0
    for images in process_images(shape, count, SEED):
        made.append(images)
        done += len(images)
        tell(done, count)
    return torch.cat(made)


@dataclass(frozen=True, eq=False)
class Shown:
    """Images that a denoiser learns from, and how they are shown.

    Attributes:
        images: uint8 ``[N, C, H, W]``.
        labels: int64 ``[N]``; those below 0 are of no class.
        policy: makes the views.
    """

    images: Tensor
    labels: Tensor
    policy: NoisyViews

    def batch(self, count: int, random: RandomSource, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw images, and return their views and targets, ``[count·K, …]`` each."""
        chosen = (random.uniform((count,)) * len(self.images)).long()
        draws = random.by_example().of(torch.arange(count))
        made = self.policy(self.images[chosen].to(device), self.labels[chosen].to(device), draws)
        return made[0].flatten(0, 1), made[1].flatten(0, 1)


def train_denoiser(
    model: Denoiser,
    shown: Sequence[Shown],
    steps: int,
    learning_rate: float,
    precision: Precision,
    tell: Callable[[int, int], None],
) -> None:
    """Train a denoiser in place by steps of Adam at rates that fall to zero; it ends with averaged weights.

    Args:
        model: on the device to work on.
        shown: kinds of images, of which each step shows as many of each.
        steps: how many, of `BATCH` images each.
        learning_rate: of the first step.
        precision: that of forward and backward.
        tell: is given how many steps are done, and how many there are.
    """
    device = next(model.parameters()).device
    dtype = resolve_precision(precision, device)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    average, random = ExponentialMovingAverage(model, EMA_DECAY), SeededRandom(SEED)
    for step in range(steps):
        batches = [
            each.batch(BATCH // len(shown), random.at(f"images {kind}", step), device)
            for kind, each in enumerate(shown)
        ]
        views, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            output = model(views)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule_factor("linear", step, steps)
        optimizer.zero_grad()
        squared_error(output.float(), targets).mean().backward()
        optimizer.step()
        average.update(model, step)
        tell(step + 1, steps)
    average.copy_to(model)
