"""How the classifiers of DPImageBench learn from synthetic images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR

from dpvision.evaluation.network_training import NetworkTraining
from dpvision.images import ImageSet
from dpvision.networks.batch_norm_wide_resnet import batch_norm_wide_resnet
from dpvision.networks.resnet import small_resnet
from dpvision.networks.resnext import resnext29
from dpvision.privacy.errors import InputError

BenchmarkNetwork = Literal["resnet110", "wrn-40-4", "resnext29"]

EPOCHS = 50
SLOWER_AFTER = (0.4, 0.8)
SLOWER = 0.2
"""The learning rate is so many times what it was, after these shares of the steps."""

_NETWORKS: Mapping[BenchmarkNetwork, tuple[str, Callable[[int, int], nn.Module]]] = {
    "resnet110": ("ResNet-110", small_resnet),
    "wrn-40-4": ("WRN-40-4 (dropout 0.3)", batch_norm_wide_resnet),
    "resnext29": ("ResNeXt-29 (8×64d)", resnext29),
}
BENCHMARK_NETWORKS = tuple(_NETWORKS)


@dataclass(frozen=True, kw_only=True)
class BenchmarkTraining(NetworkTraining):
    """Settings of Adam as DPImageBench (Gong et al., arXiv 2503.14681) trains the classifiers by which it
    compares methods: 50 epochs of batches of 256, the learning rate a fifth after 20 and again after 40, an
    average of the weights with decay 0.9999 that warms up, no augmentation.

    Two things are otherwise. All synthetic images are learned from, and the model is the last: the benchmark
    takes 55,000 of 60,000 and chooses an epoch by the others, by noisy figures of private images, or, as it
    reports besides, by the test images. And BatchNorm's statistics are those of the averaged weights.

    Attributes:
        network: "resnet110" (He et al., arXiv 1512.03385, section 4.2), "wrn-40-4" (Zagoruyko and Komodakis,
            arXiv 1605.07146) or "resnext29", 8×64d (Xie et al., arXiv 1611.05431).
        steps: the number of steps; by default 50 epochs.

    Raises:
        InputError: a value is out of range, or there is no such network.
    """

    augmented = False
    ema_decay = 0.9999

    network: BenchmarkNetwork = "wrn-40-4"
    steps: int | None = None
    batch_size: int = 256
    learning_rate: float = 0.01
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in BENCHMARK_NETWORKS:
            raise InputError(f"network must be one of {', '.join(BENCHMARK_NETWORKS)}, not {self.network!r}")

    @property
    def name(self) -> str:
        return _NETWORKS[self.network][0]

    def __str__(self) -> str:
        long = f"{EPOCHS} epochs" if self.steps is None else f"{self.steps} steps"
        decay = f"weight decay {self.weight_decay:g}, " if self.weight_decay else ""
        return (
            f"{self.name}, Adam, {long} of batches of {self.batch_size} images, learning rate "
            f"{self.learning_rate:g} and a fifth of it after {SLOWER_AFTER[0]:.0%} and again after "
            f"{SLOWER_AFTER[1]:.0%}, {decay}weights averaged with decay {self.ema_decay:g}, last model"
        )

    def steps_for(self, count: int) -> int:
        return self.steps or -(-EPOCHS * count // min(self.batch_size, count))

    def build(self, images: ImageSet) -> nn.Module:
        return _NETWORKS[self.network][1](images.shape[0], len(images.class_names))

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
        return MultiStepLR(optimizer, [round(share * steps) for share in SLOWER_AFTER], SLOWER)
