"""ResNet-9 trained on images that are released already, without privacy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.images import ImageSet
from dpvision.networks import Classifier, ResNet9
from dpvision.privacy.errors import InputError
from dpvision.runs.progress import Progress
from dpvision.views.transforms import shifted


@dataclass(frozen=True, kw_only=True)
class ResNet9Training:
    """Settings of Adam with one cycle of the learning rate (Smith and Topin, arXiv 1708.07120).

    It trains on random shifts of at most an eighth of the image, reflected at the border, and for RGB images
    on mirror images half of the time. The model is the last one: nothing is chosen by the test set.

    Attributes:
        steps: the number of steps of the optimiser. 1,000 batches of 512 are 10 epochs of 50,000 images, as
            many as in the evaluation that was published with DP-MEPF.
        batch_size: the number of images of a step, or all where there are fewer.
        learning_rate: the greatest of the cycle.
        weight_decay: as PyTorch's Adam has it.
        width: the width of :class:`ResNet9`.

    Raises:
        InputError: a value is out of range.
    """

    steps: int = 1000
    batch_size: int = 512
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    width: int = 64

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of ResNet-9 must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(
                f"learning_rate of ResNet-9 must be above 0 and finite, not {self.learning_rate}"
            )
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(
                f"weight_decay of ResNet-9 must be at least 0 and finite, not {self.weight_decay}"
            )

    def __str__(self) -> str:
        return (
            f"ResNet-9 of width {self.width}, Adam, {self.steps} steps of {self.batch_size} images, "
            f"learning rate to {self.learning_rate:g} and back in one cycle, weight decay "
            f"{self.weight_decay:g}, random shifts, for RGB mirror images, last model"
        )


def train_resnet9(
    images: ImageSet,
    training: ResNet9Training,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Classifier:
    """Return a classifier of the images' classes, on the device, in evaluation mode.

    Args:
        images: labelled, and released: nothing here is private.
        training: how to train.
        seed: the seed of initial weights, batches, shifts and mirror images.
        device: the device to compute on.
        progress: see `Progress`.

    Raises:
        InputError: there is no classifier to be learned from the images, or they are under 8×8 pixels.
    """
    images.check_trainable()
    assert images.labels is not None
    channels, height, width = images.shape
    if min(height, width) < ResNet9.SMALLEST_SIDE:
        raise InputError(
            f"ResNet-9 needs images of at least {ResNet9.SMALLEST_SIDE}×{ResNet9.SMALLEST_SIDE} pixels, not "
            f"{height}×{width} as in {images.source}; choose another classifier"
        )
    device = torch.device(device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = ResNet9(channels, len(images.class_names), training.width)
    model = Classifier(network, images.class_names, images.shape).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, weight_decay=training.weight_decay)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, training.learning_rate, total_steps=training.steps)
    generator = torch.Generator().manual_seed(seed)
    batch_size = min(training.batch_size, len(images))
    batches = _shuffled(len(images), batch_size, training.steps, generator)
    for step, batch in enumerate(batches):
        pixels, labels = images.take(batch).to(device), images.labels[batch].to(device)
        uniform = torch.rand(batch_size, 1, 3, generator=generator).to(device)
        views = shifted(pixels, uniform, pad=min(height, width) // 8, flip=channels == 3)
        loss = F.cross_entropy(model(views[:, 0]), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        if progress:
            progress("training ResNet-9", step + 1, training.steps)
    return model.eval()


def _shuffled(count: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indices of batches: every image comes once before any comes again."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:batch_size]
        order = order[batch_size:]
