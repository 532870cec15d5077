"""DP-RandP (Tang et al., arXiv 2306.06076): an encoder that was learned from random processes, or made of
wavelets, then DP-SGD for a new head on its features.

Phase I, the encoder, sees no private image (``dpvision prior train``). In Phase II the encoder stays as it
is. Its features of the private images are computed once; every step is a noisy gradient sum over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch

from dpvision.gradients import ClippedGradient
from dpvision.images import Images
from dpvision.methods.defaults import Estimate
from dpvision.methods.gradient_descent import (
    Checkpoints,
    GradientSettings,
    cross_entropy,
    descend,
)
from dpvision.methods.settings import with_overrides
from dpvision.methods.stages import TrainingPlan
from dpvision.networks import Classifier
from dpvision.priors.feature_classifier import FeatureClassifier, build_feature_classifier, encoded
from dpvision.privacy.account import Account
from dpvision.privacy.budget import Budget
from dpvision.privacy.noise import RandomSource
from dpvision.training import StepStatistics
from dpvision.views import Unchanged

TRIAL_IMAGES = 256
# Noise falls on every coordinate of the head; more features than this did not pay for theirs at ε = 1.
MOST_FEATURES = 4000
SMALLEST_FOR_TWO_SCALES = 16  # pixels


@dataclass(frozen=True, kw_only=True)
class DPRandPConfig(GradientSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        encoder, encoder_options: see :func:`dpvision.priors.build_encoder`.
        mirror: see :class:`dpvision.priors.feature_classifier.FeatureClassifier`.

    The others are those of :class:`GradientSettings`.
    """

    encoder: str
    encoder_options: dict[str, Any] = field(default_factory=dict)
    mirror: bool = False


def make_model(config: DPRandPConfig, images: Images) -> Classifier:
    """The encoder with a new head, for these images' public facts: shape and class names."""
    return _build(config, images.shape, images.class_names)


def _build(
    config: DPRandPConfig, image_shape: tuple[int, int, int], class_names: Sequence[str]
) -> Classifier:
    return build_feature_classifier(
        config.encoder,
        image_shape=image_shape,
        class_names=class_names,
        options=config.encoder_options,
        mirror=config.mirror,
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
    """Train the model's head in place; returns how many releases were lost in interruptions. See
    :func:`descend`.
    """
    (stage,) = plan.stages
    network = model.network
    assert isinstance(network, FeatureClassifier)
    assert images.labels is not None  # they were checked when the run was prepared
    return descend(
        network.head,
        encoded(model, images.pixels),
        images.labels,
        Unchanged(),
        config,
        [config.phase()],
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
