"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def warm_decay(decay: float, step: int) -> float:
    """Return the decay of ``step`` (from 0): at first a smaller one, so that the first, random weights are
    soon forgotten.
    """
    return min(decay, (1 + step) / (10 + step))


class ExponentialMovingAverage:
    """The average that is released: post-processing of noisy weights, so free of privacy cost (De et al.,
    arXiv 2204.13650, 3.3).

    The decay warms up, see :func:`warm_decay`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step ``step`` (from 0)."""
        decay = warm_decay(self.decay, step)
        for name, parameter in model.named_parameters():
            self.weights[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from saved averages."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's weights by their averages."""
        for name, parameter in model.named_parameters():
            parameter.copy_(self.weights[name])
