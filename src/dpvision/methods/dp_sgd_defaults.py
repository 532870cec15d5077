"""What to train when the user does not say: settings that suit the data's public facts, the budget and the
machine.

Only N, the image shape, the number of classes and random stand-in images are looked at, so that the choice
costs no budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dpvision.methods.dp_sgd import DPSGDConfig
from dpvision.methods.estimates import Estimate, seconds_per_step, training_memory
from dpvision.methods.settings import with_overrides
from dpvision.networks import Classifier, TanhCNN, build_classifier
from dpvision.privacy.budget import Budget

# A newcomer's first run should end while they watch.
DEFAULT_SECONDS = 180.0


def default_config(
    num_examples: int,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    budget: Budget,
    device: torch.device | str,
    overrides: Mapping[str, Any],
    most_seconds: float = DEFAULT_SECONDS,
) -> DPSGDConfig:
    """A full configuration: ``overrides`` where given, the rest chosen so that training takes about
    most_seconds on this machine, or less.

    Raises:
        InputError: an override does not exist or is out of range.
    """
    config = with_overrides(_starting_point(num_examples, image_shape, budget, device), overrides)
    if "steps" in overrides:
        return config
    per_step = seconds_per_step(config, _stand_in(config, image_shape, class_names, device))
    affordable = max(20, int(most_seconds / per_step))
    return with_overrides(config, {"steps": min(config.steps, affordable)})


def _starting_point(
    num_examples: int, image_shape: tuple[int, int, int], budget: Budget, device: torch.device | str
) -> DPSGDConfig:
    channels, height, width = image_shape
    side = min(height, width)
    # More steps than the privacy budget can use only cost time.
    steps = int(200 * (1 + min(budget.epsilon, 8.0)))
    if side < TanhCNN.SMALLEST_SIDE or num_examples < 4000:
        # Few examples pay for few parameters: noise in every coordinate outweighs what a network could learn.
        network, learning_rate, momentum = "linear", 0.5, 0.0
    elif torch.device(device).type == "cuda":  # De et al.'s recipe
        return DPSGDConfig(
            network="wrn-16-4",
            steps=steps,
            expected_batch_size=min(num_examples // 8, 4096),
            augmult=16,
            pad=side // 8,
            flip=channels == 3,
            learning_rate=2.0,
        )
    else:
        network, learning_rate, momentum = "tanh-cnn", 0.4, 0.9
    return DPSGDConfig(
        network=network,
        steps=steps,
        expected_batch_size=max(1, min(num_examples // 8, 1024)),
        augmult=1,
        pad=0,
        flip=False,
        learning_rate=learning_rate,
        momentum=momentum,
        schedule="linear",
        ema_decay=0.98,
    )


def estimate(
    config: DPSGDConfig,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    num_examples: int,
    device: torch.device | str,
) -> Estimate:
    """Expected time and memory of a run, from a trial on random images. InputError as
    :func:`build_classifier`.
    """
    model = _stand_in(config, image_shape, class_names, device)
    seconds = config.steps * seconds_per_step(config, model)
    return Estimate(seconds, training_memory(config, model, num_examples))


def _stand_in(
    config: DPSGDConfig,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    device: torch.device | str,
) -> Classifier:
    return build_classifier(
        config.network, image_shape=image_shape, class_names=class_names, options=config.network_options
    ).to(device)
