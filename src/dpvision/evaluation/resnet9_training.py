"""How a ResNet-9 learns from synthetic images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from dpvision.evaluation.network_training import NetworkTraining
from dpvision.images import ImageSet
from dpvision.networks import ResNet9
from dpvision.privacy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ResNet9Training(NetworkTraining):
    """Settings of Adam with one cycle of the learning rate (Smith and Topin, arXiv 1708.07120), on shifted
    and, for RGB, mirrored images. By default 1,000 batches of 512, which are 10 epochs of 50,000 images, as
    many as in the evaluation that was published with DP-MEPF.

    Attributes:
        width: the width of :class:`ResNet9`.

    Raises:
        InputError: a value is out of range.
    """

    augmented = True
    ema_decay = 0.0

    steps: int = 1000
    batch_size: int = 512
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise InputError(f"width of ResNet-9 must be at least 1, not {self.width}")

    @property
    def name(self) -> str:
        return "ResNet-9"

    def __str__(self) -> str:
        return (
            f"ResNet-9 of width {self.width}, Adam, {self.steps} steps of {self.batch_size} images, "
            f"learning rate to {self.learning_rate:g} and back in one cycle, weight decay "
            f"{self.weight_decay:g}, random shifts, for RGB mirror images, last model"
        )

    def steps_for(self, count: int) -> int:
        return self.steps

    def build(self, images: ImageSet) -> nn.Module:
        channels, height, width = images.shape
        if min(height, width) < ResNet9.SMALLEST_SIDE:
            raise InputError(
                f"ResNet-9 needs images of at least {ResNet9.SMALLEST_SIDE}×{ResNet9.SMALLEST_SIDE} pixels, "
                f"not {height}×{width} as in {images.source}; choose another classifier"
            )
        return ResNet9(channels, len(images.class_names), self.width)

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        return OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
