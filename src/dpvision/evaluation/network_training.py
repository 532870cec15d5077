"""Networks trained on images that are released already, without privacy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import update_bn

from dpvision.images import ImageSet
from dpvision.networks import Classifier
from dpvision.networks.precision import fast_precision
from dpvision.privacy.errors import InputError
from dpvision.privacy.values import check_rate
from dpvision.runs.progress import Progress
from dpvision.training.ema import ExponentialMovingAverage
from dpvision.views.transforms import shifted

FEWEST_IN_BATCH = 2
"""BatchNorm needs more than one image of a batch where nothing is left of the sides."""

SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class NetworkTraining(ABC):
    """Settings of Adam for a network that learns from images. The model is the last one: nothing is chosen by
    the test set.

    Attributes:
        steps: the number of steps of the optimiser.
        batch_size: the number of images of a step, or all where there are fewer.
        learning_rate: the greatest.
        weight_decay: as PyTorch's Adam has it.

    Raises:
        InputError: a value is out of range.
    """

    augmented: ClassVar[bool]
    """Whether it learns from random shifts of at most an eighth of the image, reflected at the border, and
    for RGB images from mirror images half of the time.
    """

    ema_decay: ClassVar[float]
    """Of the average of the weights over steps that is the model; with 0 the model has the last weights."""

    steps: int | None
    batch_size: int
    learning_rate: float
    weight_decay: float

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps of a network must be at least 1, not {self.steps}")
        if self.batch_size < FEWEST_IN_BATCH:
            raise InputError(
                f"batch_size of a network must be at least {FEWEST_IN_BATCH}, not {self.batch_size}"
            )
        check_rate(self.learning_rate, "learning_rate of a network")
        if not 0 <= self.weight_decay < float("inf"):
            raise InputError(
                f"weight_decay of a network must be at least 0 and finite, not {self.weight_decay}"
            )

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the network."""

    @abstractmethod
    def steps_for(self, count: int) -> int:
        """Return the number of steps for so many images."""

    @abstractmethod
    def build(self, images: ImageSet) -> nn.Module:
        """Build the network, from images of this shape to logits of their classes. InputError where they are
        too small.
        """

    @abstractmethod
    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        """Return what sets the learning rate of each of so many steps."""


def train_network(
    images: ImageSet,
    training: NetworkTraining,
    *,
    targets: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Classifier:
    """Return a classifier of the images' classes, on the device, in evaluation mode. The weights are float32;
    layers compute in bfloat16 where the device is faster in it (:func:`fast_precision`).

    Args:
        images: labelled, and released: nothing here is private.
        training: which network, and how it is trained.
        targets: probabilities of the classes, floating point ``[N, K]``, to learn in place of the labels.
        seed: the seed of all randomness.
        device: the device to compute on.
        progress: see `Progress`.

    Raises:
        InputError: there is no classifier to be learned from the images, they are too small for the network,
            or the targets are no probabilities of their classes.
    """
    images.check_trainable()
    assert images.labels is not None
    if targets is not None:
        check_targets(targets, images)
    wanted = images.labels if targets is None else targets.float()
    device = torch.device(device)
    dtype = fast_precision(device)
    steps, batch_size = training.steps_for(len(images)), min(training.batch_size, len(images))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)  # of the first weights, and of dropout
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        network = training.build(images)
        model = Classifier(network, images.class_names, images.shape).to(device).train()
        optimizer = torch.optim.Adam(
            model.parameters(), training.learning_rate, weight_decay=training.weight_decay
        )
        schedule = training.schedule(optimizer, steps)
        average = ExponentialMovingAverage(model, training.ema_decay) if training.ema_decay else None
        for step, batch in enumerate(_shuffled(len(images), batch_size, steps, generator)):
            pixels = images.take(batch).to(device)
            if training.augmented:
                pixels = _augmented(pixels, generator)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                logits = model(pixels.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), wanted[batch].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if average:
                average.update(model, step)
            if progress:
                progress(f"training {training.name}", step + 1, steps)
        if average:
            average.copy_to(model)
            # Those of the last weights are not those of their average.
            once = _shuffled(len(images), batch_size, len(images) // batch_size, generator)
            update_bn((images.take(batch).to(device) for batch in once), model)
    return model.eval()


def check_targets(targets: Tensor, images: ImageSet) -> None:
    """Raise InputError unless targets are a probability of each class for each image."""
    expected = (len(images), len(images.class_names))
    if tuple(targets.shape) != expected or not targets.is_floating_point():
        raise InputError(
            f"targets must be floating point of shape {list(expected)}, a probability of each class for each "
            f"image, not {str(targets.dtype).removeprefix('torch.')} of shape {list(targets.shape)}"
        )
    if not (targets >= 0).all() or not ((targets.sum(dim=1) - 1).abs() <= SUM_TOLERANCE).all():
        raise InputError("targets must be probabilities: at least 0, with the sum 1 for each image")


def _augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random view of each image, uint8 ``[B, C, H, W]``, in [0, 1]."""
    count, channels, height, width = pixels.shape
    uniform = torch.rand(count, 1, 3, generator=generator).to(pixels.device)
    return shifted(pixels, uniform, pad=min(height, width) // 8, flip=channels == 3)[:, 0]


def _shuffled(count: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indices of batches: every image comes once before any comes again."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:batch_size]
        order = order[batch_size:]
