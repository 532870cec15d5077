"""DP-SGD with the recipe of De et al. (arXiv 2204.13650): no prior, K self-augmentations, Poisson-sampled
Gaussian steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dpvision.gradients import refuse_cross_example_layers
from dpvision.methods.class_weights import weigh, with_counts, with_counts_learned
from dpvision.methods.classifiers import finished_classifier, learned_weights
from dpvision.methods.estimates import (
    Estimate,
    seconds_per_prediction,
    seconds_per_step,
    training_memory,
    training_seconds,
)
from dpvision.methods.going_on import Begin
from dpvision.methods.gradient_descent import (
    GradientSettings,
    check_batch,
    descend,
    images_over_noise,
    stage,
    way_for_noise,
)
from dpvision.methods.method import Finished, Learned, Makes, Workplace
from dpvision.methods.session import Session
from dpvision.methods.settings import check_settings, with_overrides
from dpvision.methods.stages import Stage
from dpvision.methods.start import Start
from dpvision.networks import Classifier, TanhCNN, build_classifier
from dpvision.networks.own import check_logits, is_own
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts

MOMENTUM = 0.9
BATCH = 1024
# Many small steps end where few large ones do, and do not overshoot on the way.
FEWEST_STEPS, MOST_STEPS, MOST_STEPS_OF_CONVOLUTIONS = 50, 200, 400
# The loss of a linear network for K classes swings above a rate of about this times K/C².
LARGEST_RATE_OF_A_CLASS = 1.5
LARGEST_RATE_OF_CONVOLUTIONS = 0.4
# The length of a logit's gradient in tanh-cnn as it starts: 4.3 and 5.0 on images of 28 and 32 pixels.
LOGIT_GRADIENT = 5.0
# With a smaller σ in a step ε grows much faster than 1/σ. With a larger one, larger batches only take longer.
NOISE_OF_A_STEP = 1.5
# N/σ, of a single release, from which a convolutional network paid for its noise on photographs; N on a GPU.
ENOUGH_FOR_CONVOLUTIONS, FEWEST_ON_A_GPU = 6_000, 4_000


@dataclass(frozen=True, kw_only=True)
class DPSGDConfig(GradientSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        network: names what is trained: wrn-D-K (such as wrn-16-4), tanh-cnn, tanh-cnn-deep, scatter-cnn,
            linear, or the module:Name of one of your own, see :func:`dpvision.register_network`.
        network_options: are passed to the network's class by :func:`dpvision.networks.build_network`.

    The others are those of :class:`GradientSettings`.
    """

    network: str
    network_options: dict[str, Any] = field(default_factory=dict)

    def build_model(self, facts: PublicFacts) -> Classifier:
        """Return the untrained network for such images."""
        model = build_classifier(
            self.network,
            image_shape=facts.image_shape,
            class_names=facts.class_names,
            options=self.network_options,
        )
        refuse_cross_example_layers(model)
        if is_own(self.network):
            check_logits(self.network, model, facts.image_shape, len(facts.class_names))
        return model


class DPSGD:
    """Train a network from scratch by noisy gradients (De et al., arXiv 2204.13650)."""

    name = "dp-sgd"
    makes: Makes = "a classifier"
    needs_labels = True
    config_class: type = DPSGDConfig

    most_seconds = 180.0
    """Longest training by default, in seconds: a newcomer's first run should end while they watch."""

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPSGDConfig:
        """Choose settings with which training takes `most_seconds` on this machine, or less."""
        check_settings(self.config_class, overrides)
        config = _config(facts, budget, device, overrides)
        if "steps" in overrides:
            return config
        per_step = seconds_per_step(config, config.build_model(facts).to(device))
        affordable = max(20, int(self.most_seconds / per_step))
        if config.steps > affordable:
            config = _config(facts, budget, device, {**overrides, "steps": affordable})
        return config

    def stages(self, config: DPSGDConfig, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """Return one stage, with one noisy gradient sum for each step; a second one may count the classes."""
        check_batch(config, facts.num_examples)
        return with_counts(config, facts, [stage(config, facts.num_examples, noise_multiplier)])

    def estimate(self, config: DPSGDConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        model = config.build_model(facts).to(device)
        seconds = training_seconds(config, model, config.steps)
        memory = training_memory(model, facts.num_examples)
        return Estimate(seconds, memory, seconds_per_prediction(model))

    def learn(self, config: DPSGDConfig, session: Session) -> Learned:
        """Train a new network; its averaged weights are what was learned."""
        return self.learn_from(config, session, None)

    def learn_from(self, config: DPSGDConfig, session: Session, begin: Begin | None) -> Learned:
        """Train a network from given weights; see :class:`dpvision.methods.going_on.GoesOn`."""
        model = session.initialized(lambda: config.build_model(session.facts))
        if begin is not None:
            begin(model)
        descend(session, 0, "training", model, config, [config.phase()], config.views(session.pool))
        return with_counts_learned(config, session, 1, learned_weights(model))

    def settings_of_start(self, start: Start) -> dict[str, Any]:
        """Return the network and its options. InputError where there is an encoder."""
        if "encoder" in start.config:
            raise InputError(
                f"the classifier of {start.place} is a head on an encoder, from which dp-randp can go on and "
                f"{self.name} cannot; name that (--method)"
            )
        return {"network": start.config["network"], "network_options": start.config["options"]}

    def taken_over(self, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings."""
        return dict(settings)

    def learned_anew(self, settings: Mapping[str, Any]) -> str:
        """Return nothing: all weights learn on."""
        return ""

    def finish(
        self, config: DPSGDConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Return the network with its averaged weights, and its classes weighted."""
        finished = finished_classifier(lambda: config.build_model(facts), learned, workplace)
        return weigh(config, learned, finished)


def _config(
    facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
) -> DPSGDConfig:
    """Choose settings by rules that were tried on the sets of ``benchmarks/defaults.py``, but for a GPU."""
    steps, on_gpu = overrides.get("steps"), device.type == "cuda"
    images = images_over_noise(facts.num_examples, budget)
    network = overrides.get("network") or _network(facts, images, on_gpu)
    if network == "linear":
        config = _linear(facts, images, steps)
    elif on_gpu:
        config = _recipe(network, facts, budget)
    else:
        config = _convolutional(network, facts, images, steps)
    return with_overrides(config, overrides)


def _network(facts: PublicFacts, images: float, on_gpu: bool) -> str:
    """Choose linear, which was the more accurate on few images, and on many grey ones about as accurate in
    less time; or convolutions. ``images`` are N/σ of a single release. On a GPU nothing was measured.
    """
    channels, *sides = facts.image_shape
    if min(sides) < TanhCNN.SMALLEST_SIDE:
        return "linear"
    if on_gpu:
        return "wrn-16-4" if facts.num_examples >= FEWEST_ON_A_GPU else "linear"
    return "tanh-cnn" if channels == 3 and images >= ENOUGH_FOR_CONVOLUTIONS else "linear"


def _linear(facts: PublicFacts, images: float, steps: int | None) -> DPSGDConfig:
    """Choose settings of a linear network, whose steps cost little; ``images`` are N/σ of a single release.

    Pixels are normalised to a mean square of about one, so that the norm of an image is about √(C·H·W). That
    is the clipping norm: shorter ones cut the gradients of all images to one length, right or wrong.
    """
    norm = float(f"{math.sqrt(math.prod(facts.image_shape)):.3g}")
    steps, rate = _steps_and_rate(
        way_for_noise(images, MOMENTUM, "linear") / norm**2,
        LARGEST_RATE_OF_A_CLASS * len(facts.class_names) / norm**2,
        MOST_STEPS,
        steps,
    )
    batch = max(BATCH, int(NOISE_OF_A_STEP * images / math.sqrt(steps)))
    return _one_view("linear", steps, rate, min(facts.num_examples, batch), norm)


def _convolutional(network: str, facts: PublicFacts, images: float, steps: int | None) -> DPSGDConfig:
    """Choose settings of another network, by what was measured of tanh-cnn."""
    steps, rate = _steps_and_rate(
        way_for_noise(images, MOMENTUM, "linear") / LOGIT_GRADIENT,
        LARGEST_RATE_OF_CONVOLUTIONS,
        MOST_STEPS_OF_CONVOLUTIONS,
        steps,
    )
    return _one_view(network, steps, rate, max(1, min(facts.num_examples // 8, BATCH)), 1.0)


def _steps_and_rate(way: float, largest_rate: float, most_steps: int, steps: int | None) -> tuple[int, float]:
    """Return steps, those that are given if any, and a learning rate that go this way together, or less of it
    where it takes too many.
    """
    steps = max(1, steps or math.ceil(min(max(way / largest_rate, FEWEST_STEPS), most_steps)))
    return steps, float(f"{min(way / steps, largest_rate):.3g}")


def _one_view(network: str, steps: int, rate: float, batch: int, norm: float) -> DPSGDConfig:
    return DPSGDConfig(
        network=network,
        steps=steps,
        expected_batch_size=batch,
        max_grad_norm=norm,
        learning_rate=rate,
        momentum=MOMENTUM,
        schedule="linear",
        ema_decay=0.5,
    )


def _recipe(network: str, facts: PublicFacts, budget: Budget) -> DPSGDConfig:
    """Choose De et al.'s recipe, for a GPU, where nothing was measured."""
    return DPSGDConfig(
        network=network,
        steps=int(200 * (1 + min(budget.epsilon, 8.0))),
        expected_batch_size=max(1, min(facts.num_examples // 8, 4096)),
        augmult=16,
        pad=min(facts.image_shape[1:]) // 8,
        flip=facts.image_shape[0] == 3,
        learning_rate=2.0,
    )
