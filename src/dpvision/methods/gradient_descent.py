"""DP-SGD with several views per example (De et al., arXiv 2204.13650), as the methods share it: settings,
cost, and the loop.

Every step releases one noisy sum of clipped gradients. What leaves is the exponential moving average of the
weights after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.gradients import ClippedGradient, Precision, check_clipping_norm, resolve_precision
from dpvision.methods.settings import check
from dpvision.methods.stages import Stage
from dpvision.methods.view_settings import ViewSettings
from dpvision.privacy.account import Account
from dpvision.privacy.errors import InputError
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.noise import RandomSource
from dpvision.privacy.sampling import PoissonSampler
from dpvision.training import (
    OnBatch,
    OptimizerName,
    Phase,
    PrivateTrainer,
    Schedule,
    StepStatistics,
    make_optimizer,
    schedule_factor,
)
from dpvision.views import ViewPolicy


@dataclass(frozen=True, kw_only=True)
class GradientSettings(ViewSettings):
    """Everything public about DP-SGD steps but the network, the data and the budget.

    Attributes:
        steps: noisy steps.
        expected_batch_size: q·N; the sample rate is this over the number of examples, exactly.
        max_grad_norm: the clipping norm C.
        optimizer, learning_rate, momentum, schedule: see :mod:`dpvision.training.optimization`.
        ema_decay: of the weights that are released.
        precision: of forward and backward: "auto", "float32" or "bfloat16".

    The others are those of :class:`ViewSettings`.

    Raises:
        InputError: a value is out of range.
    """

    steps: int
    expected_batch_size: int
    learning_rate: float
    max_grad_norm: float = 1.0
    optimizer: OptimizerName = "sgd"
    momentum: float = 0.0
    schedule: Schedule = "constant"
    ema_decay: float = 0.999
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.steps >= 1, "steps", "at least 1", self.steps)
        check(self.expected_batch_size >= 1, "expected_batch_size", "at least 1", self.expected_batch_size)
        check_clipping_norm(self.max_grad_norm)
        check(0 < self.learning_rate < math.inf, "learning_rate", "above 0 and finite", self.learning_rate)
        check(0 <= self.momentum < 1, "momentum", "at least 0 and below 1", self.momentum)
        check(0 <= self.ema_decay < 1, "ema_decay", "at least 0 and below 1", self.ema_decay)
        schedule_factor(self.schedule, 0, self.steps)
        make_optimizer(
            self.optimizer, [torch.nn.Parameter(torch.zeros(1))], self.learning_rate, self.momentum
        )
        resolve_precision(self.precision, "cpu")

    def phase(self) -> Phase:
        """All steps as one phase of training."""
        return Phase(self.steps, self.optimizer, self.learning_rate, self.momentum, self.schedule)


class Checkpoints(Protocol):
    """Where a run keeps what it needs to go on after an interruption."""

    def load(self) -> dict[str, Tensor] | None: ...

    def save(self, state: Callable[[], Mapping[str, Tensor]], final: bool) -> None:
        """Called after every step; may skip, unless ``final``."""

    def reserve(self, size: int) -> None:
        """Called before something is spent, with the bytes of the state to be saved. InputError where there
        is no room for it.
        """


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """``[N, classes]`` and class indices ``[N]`` or probabilities ``[N, classes]`` → ``[N]``."""
    return F.cross_entropy(logits, targets, reduction="none")


def clipped_gradient(model: torch.nn.Module, settings: GradientSettings) -> ClippedGradient:
    """What computes the clipped sums of a model's gradients."""
    return ClippedGradient(
        model,
        cross_entropy,
        settings.max_grad_norm,
        precision=settings.precision,
        expected_batch_size=settings.expected_batch_size,
    )


def check_batch(settings: GradientSettings, num_examples: int) -> None:
    """Raises InputError when the batches are larger than the data set."""
    if settings.expected_batch_size > num_examples:
        raise InputError(
            f"expected_batch_size must be at most the number of examples, {num_examples}, "
            f"not {settings.expected_batch_size}"
        )


def stage(settings: GradientSettings, num_examples: int, noise_multiplier: float) -> Stage:
    """One noisy gradient sum for each step."""
    sampler = PoissonSampler(num_examples, settings.expected_batch_size / num_examples)
    mechanism = GaussianSumMechanism(noise_multiplier, settings.max_grad_norm, sampler)
    return Stage("the sum of clipped gradients", mechanism, settings.steps)


def stages(settings: GradientSettings, num_examples: int, noise_multiplier: float) -> tuple[Stage, ...]:
    """All that a run of these steps alone releases. InputError as :func:`check_batch`."""
    check_batch(settings, num_examples)
    return (stage(settings, num_examples, noise_multiplier),)


def descend(
    model: torch.nn.Module,
    examples: Tensor,
    labels: Tensor,
    policy: ViewPolicy,
    settings: GradientSettings,
    phases: Sequence[Phase],
    stage: Stage,
    account: Account,
    random: RandomSource,
    *,
    ids: Tensor | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[StepStatistics], None] | None = None,
    on_batch: OnBatch | None = None,
) -> int:
    """Train ``model`` (in place, on its device) until ``stage``, or what the account has left of it, is done;
    it ends with the averaged weights. ``examples`` ``[N, …]``, ``labels`` ``[N]``, ``policy``, ``ids``
    ``[N]`` and ``on_batch`` are as for :class:`PrivateTrainer`.

    An interrupted run goes on from its checkpoint. Steps that the ledger holds but no checkpoint does were
    paid for and are lost: the run then takes that many fewer.

    Returns:
        How many steps were lost.

    Raises:
        InputError: the parts do not fit; nothing was spent.
        KeyboardInterrupt: passed on, after a checkpoint.
    """
    trainer = PrivateTrainer(
        model,
        examples,
        labels,
        policy=policy,
        engine=clipped_gradient(model, settings),
        mechanism=replace(stage.mechanism, sampler=stage.mechanism.sampler.over(len(examples))),
        phases=phases,
        ema_decay=settings.ema_decay,
        random=random,
        ids=ids,
        on_batch=on_batch,
    )
    saved = checkpoints.load() if checkpoints else None
    if saved is not None:
        trainer.load_state(saved)
    if checkpoints:
        # Optimisers keep up to two numbers for each that they train, from the first step on.
        trained = sum(p.nbytes for p in model.parameters())
        checkpoints.reserve(2 * trained + sum(tensor.nbytes for tensor in trainer.state().values()))
    finished = False
    try:
        # Another stage may have events like this one's: what is left of them is then not this stage's alone.
        while trainer.steps_done < stage.count and account.left(stage.mechanism.event) > 0:
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
    return stage.count - trainer.steps_done
