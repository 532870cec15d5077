"""DP-SGD with the recipe of De et al. (arXiv 2204.13650): no prior, K self-augmentations, Poisson-sampled
Gaussian steps.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dpvision.gradients import refuse_cross_example_layers
from dpvision.methods.classifiers import finished_classifier, learned_weights
from dpvision.methods.estimates import Estimate, seconds_per_step, training_memory
from dpvision.methods.gradient_descent import GradientSettings, check_batch, descend, stage, way_for_noise
from dpvision.methods.method import Finished, Learned, Makes, Workplace
from dpvision.methods.session import Session
from dpvision.methods.settings import check_settings, with_overrides
from dpvision.methods.stages import Stage
from dpvision.networks import Classifier, TanhCNN, build_classifier
from dpvision.networks.own import check_logits, is_own
from dpvision.privacy.budget import Budget
from dpvision.privacy.facts import PublicFacts


MOMENTUM = 0.9
LOGIT_GRADIENT = float(os.environ.get("J", 5))
LARGEST_RATE = float(os.environ.get("LR", 0.4))
FEWEST_STEPS = int(os.environ.get("FEW", 50))
MOST_STEPS = int(os.environ.get("MOST", 400))
BATCH = float(os.environ.get("BATCH", 1.5))
MOST_BATCH = float(os.environ.get("MB", 1024))


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
        config = with_overrides(_starting_point(facts, budget, device, overrides.get("network")), overrides)
        if "steps" in overrides:
            return config
        per_step = seconds_per_step(config, config.build_model(facts).to(device))
        affordable = max(20, int(self.most_seconds / per_step))
        return with_overrides(config, {"steps": min(config.steps, affordable)})

    def stages(self, config: DPSGDConfig, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """Return one stage, with one noisy gradient sum for each step."""
        check_batch(config, facts.num_examples)
        return (stage(config, facts.num_examples, noise_multiplier),)

    def estimate(self, config: DPSGDConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        model = config.build_model(facts).to(device)
        seconds = config.steps * seconds_per_step(config, model)
        return Estimate(seconds, training_memory(config, model, facts.num_examples))

    def learn(self, config: DPSGDConfig, session: Session) -> Learned:
        """Train a new network; its averaged weights are what was learned."""
        model = session.initialized(lambda: config.build_model(session.facts))
        descend(session, 0, "training", model, config, [config.phase()], config.views(session.pool))
        return learned_weights(model)

    def finish(
        self, config: DPSGDConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Return the network with its averaged weights."""
        return finished_classifier(lambda: config.build_model(facts), learned, workplace)


def _starting_point(
    facts: PublicFacts, budget: Budget, device: torch.device, network: str | None
) -> DPSGDConfig:
    """Choose settings by rules that were tried on the sets of ``benchmarks/defaults.py``, but for those of a
    GPU, which are De et al.'s recipe. They do not depend on how fast the machine is.
    """
    num_examples, side = facts.num_examples, min(facts.image_shape[1:])
    way = way_for_noise(num_examples, budget, MOMENTUM)
    if network is None:
        if side < TanhCNN.SMALLEST_SIDE or num_examples < 4000:
            network = "linear"
        else:
            network = "wrn-16-4" if device.type == "cuda" else "tanh-cnn"
    if network != "linear" and device.type == "cuda":
        return DPSGDConfig(
            network=network,
            steps=int(200 * (1 + min(budget.epsilon, 8.0))),
            expected_batch_size=max(1, min(num_examples // 8, 4096)),
            augmult=16,
            pad=side // 8,
            flip=facts.image_shape[0] == 3,
            learning_rate=2.0,
        )
    if network == "linear":
        length = math.sqrt(math.prod(facts.image_shape))
        way, largest, most, norm = way / length**2, 1.5 * len(facts.class_names) / length**2, 200, length
    else:
        way, largest, most, norm = way / LOGIT_GRADIENT, LARGEST_RATE, MOST_STEPS, 1.0
    steps = math.ceil(min(max(way / largest, FEWEST_STEPS), most))
    enough = BATCH * way_for_noise(num_examples, budget, MOMENTUM) / (math.sqrt(3) * (1 - MOMENTUM)) / math.sqrt(steps)
    batch = min(num_examples, max(1024, int(enough))) if network == "linear" else max(1, min(MOST_BATCH, int(enough), num_examples // 8))
    return DPSGDConfig(
        network=network,
        steps=steps,
        expected_batch_size=batch,
        augmult=1,
        pad=0,
        flip=False,
        max_grad_norm=norm,
        learning_rate=float(f"{min(way / steps, largest):.3g}"),
        momentum=MOMENTUM,
        schedule="linear",
        ema_decay=0.5 if network == "linear" else 0.9,
    )
