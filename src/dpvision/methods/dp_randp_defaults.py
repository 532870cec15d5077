"""What dp-randp does when the user does not say, and what it will take: chosen and measured without a look at
the private images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from dpvision.methods.dp_randp import DPRandPConfig, Part
from dpvision.methods.estimates import Estimate, seconds_per_step, training_memory
from dpvision.methods.features import PRIOR, trial_features
from dpvision.methods.gradient_descent import clipped_gradient
from dpvision.methods.settings import with_overrides
from dpvision.networks import Classifier, WideResNet
from dpvision.privacy.budget import Budget

# Noise falls on every coordinate of the head; more features of scattering than this did not pay for theirs.
MOST_FEATURES = 4000
# More examples or a larger ε leave less noise on a step, and more steps pay. The best numbers were near this
# for 1,500 to 45,000 training images of CIFAR-10 at ε from 1 to 8.
STEPS_RULE = 7.5
SMALLEST_FOR_TWO_SCALES = 16  # pixels


def default_config(
    num_examples: int,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    budget: Budget,
    device: torch.device | str,
    overrides: Mapping[str, Any],
) -> DPRandPConfig:
    """A full configuration: ``overrides`` where given, the rest chosen by the data's public facts and ε.

    Raises:
        InputError: an override does not exist or is out of range.
    """
    if overrides.get("phase_iii") == "full":
        config = _with_phase_iii(num_examples, image_shape, device)
    else:
        config = _head_alone(num_examples, image_shape, budget, overrides.get("encoder"))
        if overrides.get("phase_ii") == "sampled":
            config = _sampled(config, num_examples)
    return with_overrides(config, overrides)


def _head_alone(
    num_examples: int, image_shape: tuple[int, int, int], budget: Budget, encoder: str | None
) -> DPRandPConfig:
    """All examples enter every step: with features at hand a step costs little, and a few exact steps lose
    less to noise than many sampled ones.
    """
    if encoder is None:
        too_small = min(image_shape[1:]) < WideResNet.SMALLEST_SIDE
        encoder = "scattering" if too_small else f"{PRIOR}+scattering"
    return DPRandPConfig(
        encoder=encoder,
        encoder_options=_encoder_options(encoder, image_shape),
        mirror=image_shape[0] == 3,  # photographs have no handedness; letters and digits, often grey, do
        steps=round(min(max(math.sqrt(num_examples * budget.epsilon) / STEPS_RULE, 5), 100)),
        expected_batch_size=num_examples,
        learning_rate=120.0,
        momentum=0.9,
        schedule="linear",
        ema_decay=0.5,
    )


def _sampled(config: DPRandPConfig, num_examples: int) -> DPRandPConfig:
    """Features of views are computed in every step, so steps take batches: ten epochs of them, whose learning
    rates add up to what those of all examples do.
    """
    batch = max(1, min(num_examples // 8, 1024))
    steps = round(10 * num_examples / batch)
    return replace(
        config,
        phase_ii="sampled",
        mirror=False,  # flip is a view
        steps=steps,
        expected_batch_size=batch,
        learning_rate=config.learning_rate * config.steps / steps,
        ema_decay=0.98,
    )


def _with_phase_iii(
    num_examples: int, image_shape: tuple[int, int, int], device: torch.device | str
) -> DPRandPConfig:
    """The prior alone, for scattering cannot learn. Where there is no GPU, one view of each image and a head
    that learns from features. At a norm of 16 the gradients of head and body are of one size.
    """
    fast = torch.device(device).type == "cuda"
    return DPRandPConfig(
        encoder=PRIOR,
        feature_norm=16.0,
        phase_ii="sampled" if fast else "features",
        phase_iii="full",
        phase_ii_share=1 / 4,
        steps=320,
        expected_batch_size=max(1, min(num_examples // 24, 4096)),
        augmult=16 if fast else 1,
        pad=min(image_shape[1:]) // 8,
        flip=image_shape[0] == 3,
        max_grad_norm=16.0,
        learning_rate=0.5,
        phase_iii_learning_rate=0.12,
        momentum=0.9,
        schedule="linear",
        ema_decay=0.98,
    )


def _encoder_options(encoder: str, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    scattering = _scattering_options(image_shape)
    if encoder == "scattering":
        return scattering
    return {"parts": [{}, scattering]} if encoder == f"{PRIOR}+scattering" else {}


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
    model = config.build_model(image_shape, class_names).to(device)
    seconds, memory = 0.0, 0
    for part in config.parts(num_examples):
        some = (
            _on_features(part, model, num_examples)
            if part.on_features
            else _on_views(part, model, num_examples)
        )
        seconds, memory = seconds + some.seconds, max(memory, some.memory_bytes)
    return Estimate(seconds, memory)


def _on_features(part: Part, model: Classifier, num_examples: int) -> Estimate:
    features, encoding = trial_features(model)
    count = len(features)
    settings = part.settings
    engine = clipped_gradient(model.network.get_submodule("head"), settings)
    views, targets = features.unsqueeze(1), torch.zeros(count, dtype=torch.int64, device=features.device)
    engine.sum(views, targets)  # the check of the head, the first memory
    started = perf_counter()
    engine.sum(views, targets).norms.sum().item()  # waits for the device
    per_example = (perf_counter() - started) / count
    seconds = num_examples * encoding + settings.steps * settings.expected_batch_size * per_example
    pixels = num_examples * math.prod(model.image_shape)
    return Estimate(seconds, 2 * pixels + 2 * num_examples * features.shape[1] * features.element_size())


def _on_views(part: Part, model: Classifier, num_examples: int) -> Estimate:
    seconds = 0.0
    for phase in part.phases:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(phase.trains is None or phase.trains(name))
        seconds += phase.steps * seconds_per_step(part.settings, model)
    return Estimate(seconds, training_memory(part.settings, model, num_examples))
