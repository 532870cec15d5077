"""DP-SGD with several views per example (De et al., arXiv 2204.13650), as the methods share it: settings, and
what they cost.

Every step releases one noisy sum of clipped gradients. What leaves is the exponential moving average of the
weights after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.gradients import (
    ClippedGradient,
    Engine,
    Loss,
    Precision,
    check_clipping_norm,
    check_engine,
    resolve_precision,
)
from dpvision.images import ImageSet
from dpvision.methods.class_weight_settings import CountSettings
from dpvision.methods.session import AfterStep, Session
from dpvision.methods.settings import check
from dpvision.methods.stages import Stage
from dpvision.methods.view_settings import ViewSettings
from dpvision.privacy.accounting import calibrate_noise_multiplier
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.sampling import FullBatch, PoissonSampler
from dpvision.privacy.values import check_rate
from dpvision.training import (
    Examples,
    OptimizerName,
    Phase,
    Schedule,
    make_optimizer,
    schedule_factor,
)
from dpvision.views import ViewPolicy

LARGEST_EPSILON = 100.0
"""A larger ε changes no default; a single release would need no noise that could be calibrated."""


@dataclass(frozen=True, kw_only=True)
class DescentSettings:
    """Everything public about DP-SGD steps but the views, the network, the data and the budget.

    Attributes:
        steps: how many noisy steps are taken; the budget pays for each.
        expected_batch_size: how many examples a batch has on average; the sample rate is exactly this over N.
        max_grad_norm: C, the length to which the gradient of each example is clipped.
        optimizer: makes a step of a noisy gradient: "sgd" or "adam", neither with weight decay.
        learning_rate: scales every step, before the schedule does.
        momentum: is the share of the last update that the next one keeps; "adam" ignores it.
        schedule: lowers the learning rate: "linear" or "cosine" to 0 at the end, "constant" never.
        ema_decay: is the share of the averaged weights that a step keeps, in step t (from 0) at most
            (1 + t) / (10 + t); their average is what is released.
        precision: sets the arithmetic of forward and backward: "float32", "bfloat16", or "auto", which takes
            bfloat16 where the hardware multiplies its matrices.
        engine: chooses how the gradients of layers are computed, and of how many examples at a time:
            "measured", by what was fastest when tried at the start (15 seconds at most); "by-size", with
            which a seeded run of a large network is the same in another process to the last bit; or
            "compiled", by one compiled program, which takes a minute to make.

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
    engine: Engine = "measured"

    def __post_init__(self) -> None:
        check(self.steps >= 1, "steps", "at least 1", self.steps)
        check(self.expected_batch_size >= 1, "expected_batch_size", "at least 1", self.expected_batch_size)
        check_clipping_norm(self.max_grad_norm)
        check_rate(self.learning_rate, "learning_rate")
        check(0 <= self.momentum < 1, "momentum", "at least 0 and below 1", self.momentum)
        check(0 <= self.ema_decay < 1, "ema_decay", "at least 0 and below 1", self.ema_decay)
        schedule_factor(self.schedule, 0, self.steps)
        make_optimizer(
            self.optimizer, [torch.nn.Parameter(torch.zeros(1))], self.learning_rate, self.momentum
        )
        resolve_precision(self.precision, "cpu")
        check_engine(self.engine)

    def phase(self) -> Phase:
        """Return all steps as one phase of training."""
        return Phase(self.steps, self.optimizer, self.learning_rate, self.momentum, self.schedule)


@dataclass(frozen=True, kw_only=True)
class GradientSettings(DescentSettings, ViewSettings, CountSettings):
    """Everything public about a classifier's DP-SGD steps but the network, the data and the budget.

    The settings are those of :class:`DescentSettings`, :class:`ViewSettings` and :class:`CountSettings`.

    Raises:
        InputError: a value is out of range.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        ViewSettings.__post_init__(self)
        self.check_class_weight()


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute ``[N]`` losses of ``[N, classes]`` and indices ``[N]`` or probabilities ``[N, classes]``."""
    return F.cross_entropy(logits, targets, reduction="none")


def clipped_gradient(
    model: torch.nn.Module, settings: DescentSettings, loss: Loss = cross_entropy
) -> ClippedGradient:
    """Return the object that computes the clipped sums of the gradients of a model's loss."""
    return ClippedGradient(
        model,
        loss,
        settings.max_grad_norm,
        precision=settings.precision,
        engine=settings.engine,
        expected_batch_size=settings.expected_batch_size,
    )


def noise_of_single_release(num_examples: int, budget: Budget) -> float:
    """Return the noise multiplier of a single release of a sum over all images that has all of a budget, for
    an ε of at most `LARGEST_EPSILON`.
    """
    once = GaussianSumMechanism(1.0, 1.0, FullBatch(num_examples))
    budget = replace(budget, epsilon=min(budget.epsilon, LARGEST_EPSILON))
    return calibrate_noise_multiplier(lambda noise: [replace(once, noise_multiplier=noise).event], budget)


def images_over_noise(num_examples: int, budget: Budget) -> float:
    """Return N/σ, where σ is that of :func:`noise_of_single_release`."""
    return num_examples / noise_of_single_release(num_examples, budget)


def way_for_noise(images: float, momentum: float, schedule: Schedule) -> float:
    """Return the first learning rate times the steps at which the noise of all steps moves a logit by about
    one.

    Args:
        images: N/σ of a single release, see :func:`images_over_noise`.
        momentum: of the steps.
        schedule: of the learning rates, "constant" or "linear".

    Where C = 1, and the gradient of a logit has norm 1, as with features of norm 1, the noise of a step moves
    it by a normal number of standard deviation rate·σ/N/(1 − β), where β is the momentum. T steps need √T
    times the σ₁ of a single release. Of rates that stay as they are, the deviations add up to
    rate·T·σ₁/N/(1 − β), whatever T is; of rates that fall linearly to zero to a √3rd of it. With more noise
    the loss ends above that of guessing, on few images or at a small ε; with less the model stays near its
    start.
    """
    return {"constant": 1.0, "linear": math.sqrt(3)}[schedule] * (1 - momentum) * images


def check_batch(settings: DescentSettings, num_examples: int) -> None:
    """Raise InputError when the batches are larger than the data set."""
    if settings.expected_batch_size > num_examples:
        raise InputError(
            f"expected_batch_size must be at most the number of examples, {num_examples}, "
            f"not {settings.expected_batch_size}"
        )


def stage(settings: DescentSettings, num_examples: int, noise_multiplier: float, of: str = "") -> Stage:
    """Return a stage with one noisy gradient sum for each step; ``of`` says what of, if not of weights."""
    sampler = PoissonSampler(num_examples, settings.expected_batch_size / num_examples)
    mechanism = GaussianSumMechanism(noise_multiplier, settings.max_grad_norm, sampler)
    return Stage("the sum of clipped gradients" + of, mechanism, settings.steps)


def descend(
    session: Session,
    number: int,
    what: str,
    model: torch.nn.Module,
    settings: DescentSettings,
    phases: Sequence[Phase],
    policy: ViewPolicy,
    encode: Callable[[ImageSet], Tensor | Examples] | None = None,
    loss: Loss = cross_entropy,
    after_step: AfterStep | None = None,
) -> None:
    """Train ``model`` in place by steps with these settings; see :meth:`Session.descend`."""
    session.descend(
        number,
        what,
        model,
        engine=clipped_gradient(model, settings, loss),
        policy=policy,
        phases=phases,
        ema_decay=settings.ema_decay,
        encode=encode,
        after_step=after_step,
    )
