"""Optimisers and learning-rate schedules, by name and by step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import nn

from dpvision.privacy.errors import InputError

OptimizerName = Literal["sgd", "adam"]
Schedule = Literal["constant", "linear", "cosine"]


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], learning_rate: float, momentum: float
) -> torch.optim.Optimizer:
    """Make ``sgd`` (with ``momentum``) or ``adam``, without weight decay. InputError for another name."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum)
    if name == "adam":
        return torch.optim.Adam(parameters, lr=learning_rate)
    raise InputError(f"optimizer: must be one of {', '.join(get_args(OptimizerName))}, not '{name}'")


def schedule_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Return the learning rate's factor at ``step`` (from 0) of ``steps``. InputError for another name."""
    progress = step / steps
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    raise InputError(f"schedule: must be one of {', '.join(get_args(Schedule))}, not '{schedule}'")
