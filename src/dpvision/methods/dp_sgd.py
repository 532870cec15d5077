"""DP-SGD with the recipe of De et al. (arXiv 2204.13650): no prior, K self-augmentations, Poisson-sampled
Gaussian steps.

Every step releases one noisy sum of clipped gradients; the whole run is ``steps`` equal events. What leaves
is the exponential moving average of the weights after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.gradients import ClippedGradient, Precision, refuse_cross_example_layers, resolve_precision
from dpvision.images import Images
from dpvision.networks import Classifier, build_classifier
from dpvision.privacy.account import Account
from dpvision.privacy.accounting import GaussianEvent, calibrate_steps, epsilon
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.noise import RandomSource
from dpvision.privacy.sampling import PoissonSampler
from dpvision.training import (
    OptimizerName,
    PrivateTrainer,
    Schedule,
    StepStatistics,
    make_optimizer,
    schedule_factor,
)
from dpvision.views import SelfAugmentation


@dataclass(frozen=True)
class DPSGDConfig:
    """Everything public about a run but the data and the budget.

    Attributes:
        network, network_options: see :func:`dpvision.networks.build_network`.
        steps: noisy steps.
        expected_batch_size: q·N; the sample rate is this over the number of examples, exactly.
        augmult, pad, flip: K views per example, see :class:`dpvision.views.SelfAugmentation`.
        max_grad_norm: the clipping norm C.
        optimizer, learning_rate, momentum, schedule: see :mod:`dpvision.training.optimization`.
        ema_decay: of the weights that are released.
        precision: of forward and backward: "auto", "float32" or "bfloat16".

    Raises:
        InputError: a value is out of range.
    """

    network: str
    steps: int
    expected_batch_size: int
    augmult: int
    pad: int
    flip: bool
    learning_rate: float
    network_options: dict[str, Any] = field(default_factory=dict)
    max_grad_norm: float = 1.0
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.0
    schedule: Schedule = "constant"
    ema_decay: float = 0.999
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        _check(self.steps >= 1, "steps", "at least 1", self.steps)
        _check(self.expected_batch_size >= 1, "expected_batch_size", "at least 1", self.expected_batch_size)
        _check(0 < self.max_grad_norm < math.inf, "max_grad_norm", "above 0 and finite", self.max_grad_norm)
        _check(0 < self.learning_rate < math.inf, "learning_rate", "above 0 and finite", self.learning_rate)
        _check(0 <= self.momentum < 1, "momentum", "at least 0 and below 1", self.momentum)
        _check(0 <= self.ema_decay < 1, "ema_decay", "at least 0 and below 1", self.ema_decay)
        SelfAugmentation(self.augmult, self.pad, self.flip)
        schedule_factor(self.schedule, 0, self.steps)
        make_optimizer(
            self.optimizer, [torch.nn.Parameter(torch.zeros(1))], self.learning_rate, self.momentum
        )
        resolve_precision(self.precision, "cpu")

    @classmethod
    def options(cls) -> dict[str, type]:
        """Names of the settings and the types that they take."""
        found: dict[str, type] = {f.name: str for f in fields(cls)}
        found |= dict.fromkeys(("steps", "expected_batch_size", "augmult", "pad"), int)
        found |= dict.fromkeys(("learning_rate", "max_grad_norm", "momentum", "ema_decay"), float)
        return found | {"flip": bool, "network_options": dict}


def _check(holds: bool, name: str, needed: str, value: object) -> None:
    if not holds:
        raise InputError(f"{name} must be {needed}, not {value}")


@dataclass(frozen=True)
class TrainingPlan:
    """What a run will do to the account: known before any private example is read."""

    noise_multiplier: float
    sampler: PoissonSampler
    events: tuple[GaussianEvent, ...]
    epsilon: float


def make_plan(config: DPSGDConfig, num_examples: int, budget: Budget) -> TrainingPlan:
    """The least noise at which all the steps together stay within the budget (add-or-remove-one or
    replace-one, by PLD).

    Raises:
        InputError: the budget is out of range for N, or no noise meets it.
    """
    budget.check_against(num_examples)
    if config.expected_batch_size > num_examples:
        raise InputError(
            f"expected_batch_size must be at most the number of examples, {num_examples}, "
            f"not {config.expected_batch_size}"
        )
    sampler = PoissonSampler(num_examples, config.expected_batch_size / num_examples)
    noise_multiplier = calibrate_steps(sampler.sample_rate, config.steps, budget)
    events = (sampler.event(noise_multiplier, config.steps),)
    return TrainingPlan(
        noise_multiplier, sampler, events, epsilon(events, budget.delta, budget.neighboring_relation)
    )


class Checkpoints(Protocol):
    """Where a run keeps what it needs to go on after an interruption."""

    def load(self) -> dict[str, Tensor] | None: ...

    def save(self, state: Callable[[], Mapping[str, Tensor]], final: bool) -> None:
        """Called after every step; may skip, unless ``final``."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``[N, classes]`` and class indices ``[N]`` or probabilities ``[N, classes]`` → ``[N]``."""
    return F.cross_entropy(logits, targets, reduction="none")


def make_model(config: DPSGDConfig, images: Images) -> Classifier:
    """The untrained network for these images' public facts: shape and class names."""
    model = build_classifier(
        config.network,
        image_shape=images.shape,
        class_names=images.class_names,
        options=config.network_options,
    )
    refuse_cross_example_layers(model)
    return model


def train(
    model: torch.nn.Module,
    images: Images,
    config: DPSGDConfig,
    plan: TrainingPlan,
    account: Account,
    random: RandomSource,
    *,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[StepStatistics], None] | None = None,
) -> torch.nn.Module:
    """Train ``model`` (in place, on its device) until the account's plan is spent; it ends with the averaged
    weights.

    An interrupted run goes on from its checkpoint. Steps that the ledger holds but no checkpoint does were
    paid for and are
    lost: the run then takes that many fewer.

    Raises:
        InputError: the parts do not fit; nothing was spent.
        KeyboardInterrupt: passed on, after a checkpoint.
    """
    mechanism = GaussianSumMechanism(plan.noise_multiplier, config.max_grad_norm, plan.sampler)
    trainer = PrivateTrainer(
        model,
        images,
        policy=SelfAugmentation(config.augmult, config.pad, config.flip),
        engine=ClippedGradient(model, cross_entropy, config.max_grad_norm, precision=config.precision),
        mechanism=mechanism,
        optimizer=make_optimizer(
            config.optimizer,
            [p for p in model.parameters() if p.requires_grad],
            config.learning_rate,
            config.momentum,
        ),
        schedule=config.schedule,
        steps=config.steps,
        ema_decay=config.ema_decay,
        random=random,
    )
    saved = checkpoints.load() if checkpoints else None
    if saved is not None:
        trainer.load_state(saved)
    finished = False
    try:
        while account.left(mechanism.event) > 0:
            statistics = trainer.step(account)
            if checkpoints:
                checkpoints.save(trainer.state, final=False)
            if on_step:
                on_step(statistics)
        finished = True
    finally:
        if checkpoints and (finished or trainer.steps_done > 0):
            checkpoints.save(trainer.state, final=True)
    trainer.average.copy_to(model)
    return model


def with_overrides(config: DPSGDConfig, overrides: Mapping[str, Any]) -> DPSGDConfig:
    """``config`` with some settings replaced. InputError for a setting that does not exist."""
    unknown = overrides.keys() - DPSGDConfig.options().keys()
    if unknown:
        raise InputError(
            f"there is no setting '{min(unknown)}'; choose from {', '.join(sorted(DPSGDConfig.options()))}"
        )
    return replace(config, **overrides)
