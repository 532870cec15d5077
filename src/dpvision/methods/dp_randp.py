"""DP-RandP (Tang et al., arXiv 2306.06076): an encoder that was learned from random processes, or made of
wavelets, then DP-SGD for a new head on its features, then for all weights.

Phase I, the encoder, sees no private image (``dpvision prior train``). In Phase II the encoder stays as it is
and the head learns; in Phase III, if there is one, both do. The two have one account and one average.
Without Phase III the features of the private images are computed once, and every step is a noisy gradient sum
over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Literal, get_args

import torch
from torch import nn

from dpvision.gradients import ClippedGradient
from dpvision.images import Images
from dpvision.methods.estimates import Estimate, seconds_per_step, training_memory
from dpvision.methods.gradient_descent import (
    Checkpoints,
    GradientSettings,
    cross_entropy,
    descend,
)
from dpvision.methods.settings import check, with_overrides
from dpvision.methods.stages import TrainingPlan
from dpvision.networks import Classifier
from dpvision.priors.feature_classifier import (
    Head,
    build_feature_classifier,
    encoded,
    refuse_own_encoder,
)
from dpvision.privacy.account import Account
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.noise import RandomSource
from dpvision.training import Phase, StepStatistics
from dpvision.views import SelfAugmentation, Unchanged, ViewPolicy

PhaseIII = Literal["full", "none"]

TRIAL_IMAGES = 256
# Noise falls on every coordinate of the head; more features than this did not pay for theirs at ε = 1.
MOST_FEATURES = 4000
SMALLEST_FOR_TWO_SCALES = 16  # pixels


@dataclass(frozen=True, kw_only=True)
class DPRandPConfig(GradientSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        encoder, encoder_options: see :func:`dpvision.priors.build_encoder`.
        mirror, head: see :class:`dpvision.priors.feature_classifier.FeatureClassifier`.
        phase_iii: "full", all weights learn in the end; or "none", the head alone ever does.
        phase_ii_share: of the steps, with a Phase III.
        phase_iii_learning_rate: learning_rate is that of Phase II.

    The others are those of :class:`GradientSettings`; views are made where there is a Phase III, in Phase II
    too.
    """

    encoder: str
    encoder_options: dict[str, Any] = field(default_factory=dict)
    mirror: bool = False
    head: Head = "unit_norm"
    phase_iii: PhaseIII = "none"
    phase_ii_share: float = 0.2
    phase_iii_learning_rate: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.phase_iii_learning_rate
        check(
            self.phase_iii in get_args(PhaseIII), "phase_iii", " or ".join(get_args(PhaseIII)), self.phase_iii
        )
        check(0 <= self.phase_ii_share <= 1, "phase_ii_share", "between 0 and 1", self.phase_ii_share)
        check(0 < rate < math.inf, "phase_iii_learning_rate", "above 0 and finite", rate)
        if self.phase_iii == "none" and self.views() != SelfAugmentation(1, 0, flip=False):
            raise InputError(
                "augmult, pad and flip need phase_iii = full: without it, features are computed once; "
                "mirror adds those of the mirrored image"
            )

    def phases(self) -> list[Phase]:
        """The head first, then everything. A phase without steps is left out."""
        if self.phase_iii == "none":
            return [self.phase()]
        steps = round(self.phase_ii_share * self.steps)
        head = replace(self.phase(), steps=steps, trains=_is_of_head)
        everything = replace(
            self.phase(),
            steps=self.steps - steps,
            learning_rate=self.phase_iii_learning_rate,
            trains=lambda name: True,
        )
        return [phase for phase in (head, everything) if phase.steps > 0]


def _is_of_head(name: str) -> bool:
    """Whether a parameter of the classifier is the head's."""
    return name.startswith("network.head.")


def make_model(config: DPRandPConfig, images: Images) -> Classifier:
    """The encoder with a new head, for these images' public facts: shape and class names. InputError as
    :func:`build_feature_classifier` and :func:`refuse_own_encoder`.
    """
    model = _build(config, images.shape, images.class_names)
    refuse_own_encoder(model, images)
    return model


def _build(
    config: DPRandPConfig, image_shape: tuple[int, int, int], class_names: Sequence[str]
) -> Classifier:
    return build_feature_classifier(
        config.encoder,
        image_shape=image_shape,
        class_names=class_names,
        options=config.encoder_options,
        mirror=config.mirror,
        head=config.head,
    )


def train(
    model: Classifier,
    images: Images,
    config: DPRandPConfig,
    plan: TrainingPlan,
    account: Account,
    random: RandomSource,
    *,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[StepStatistics], None] | None = None,
) -> int:
    """Train the model in place; returns how many releases were lost in interruptions. See :func:`descend`."""
    (stage,) = plan.stages
    assert images.labels is not None  # they were checked when the run was prepared
    trained: nn.Module = model
    examples = images.pixels
    policy: ViewPolicy = config.views()
    if config.phase_iii == "none":
        trained, examples, policy = model.network.get_submodule("head"), encoded(model, examples), Unchanged()
    return descend(
        trained,
        examples,
        images.labels,
        policy,
        config,
        config.phases(),
        stage,
        account,
        random,
        checkpoints=checkpoints,
        on_step=on_step,
    )


def default_config(
    num_examples: int,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    budget: Budget,
    device: torch.device | str,
    overrides: Mapping[str, Any],
) -> DPRandPConfig:
    """A full configuration: ``overrides`` where given, the rest chosen by the data's public facts and ε.

    All examples enter every step: with features at hand a step costs little, and a few exact steps lose less
    to noise than many sampled ones.

    Raises:
        InputError: an override does not exist or is out of range.
    """
    scattering = overrides.get("encoder", "scattering") == "scattering"
    config = DPRandPConfig(
        encoder="scattering",
        encoder_options=_scattering_options(image_shape) if scattering else {},
        mirror=image_shape[0] == 3,  # photographs have no handedness; letters and digits, often grey, do
        steps=30 if budget.epsilon < 4 else 60,
        expected_batch_size=num_examples,
        learning_rate=100.0,
        momentum=0.9,
        schedule="linear",
        ema_decay=0.5,
    )
    return with_overrides(config, overrides)


def _scattering_options(image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Two scales, or one for images so small that two would leave little of them, on the finest grid with at
    most `MOST_FEATURES` features.
    """
    channels, *sides = image_shape
    scales, paths, groups = (2, 81, 27) if min(sides) >= SMALLEST_FOR_TWO_SCALES else (1, 9, 9)
    finest = math.isqrt(MOST_FEATURES // (paths * channels))
    return {
        "J": scales,
        "cells": max(1, min(finest, *(side // 2**scales for side in sides))),
        "groups": groups,
    }


def estimate(
    config: DPRandPConfig,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    num_examples: int,
    device: torch.device | str,
) -> Estimate:
    """Expected time and memory of a run, from a trial on random images. InputError as
    :func:`build_feature_classifier`.
    """
    model = _build(config, image_shape, class_names).to(device)
    if config.phase_iii == "full":
        return _estimate_phases(config, model, num_examples)
    images = torch.randint(256, (TRIAL_IMAGES, *image_shape), dtype=torch.uint8)
    started = perf_counter()
    features = encoded(model, images)
    encoding = (perf_counter() - started) / TRIAL_IMAGES
    engine = ClippedGradient(model.network.get_submodule("head"), cross_entropy, config.max_grad_norm)
    views, targets = features.unsqueeze(1), torch.zeros(TRIAL_IMAGES, dtype=torch.int64, device=device)
    engine.sum(views, targets)  # the check of the head, the first memory
    started = perf_counter()
    engine.sum(views, targets).norms.sum().item()  # waits for the device
    per_example = (perf_counter() - started) / TRIAL_IMAGES
    seconds = num_examples * encoding + config.steps * config.expected_batch_size * per_example
    pixels = images[0].numel() * num_examples
    return Estimate(seconds, 2 * pixels + 2 * num_examples * features.shape[1] * features.element_size())


def _estimate_phases(config: DPRandPConfig, model: Classifier, num_examples: int) -> Estimate:
    seconds = 0.0
    for phase in config.phases():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(phase.trains is None or phase.trains(name))
        seconds += phase.steps * seconds_per_step(config, model)
    return Estimate(seconds, training_memory(config, model, num_examples))
