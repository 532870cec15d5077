"""DP-SGD with the recipe of De et al. (arXiv 2204.13650): no prior, K self-augmentations, Poisson-sampled
Gaussian steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dpvision.gradients import refuse_cross_example_layers
from dpvision.images import Images
from dpvision.methods.gradient_descent import Checkpoints, GradientSettings, descend
from dpvision.methods.stages import TrainingPlan
from dpvision.networks import Classifier, build_classifier
from dpvision.privacy.account import Account
from dpvision.privacy.noise import RandomSource
from dpvision.training import OnBatch, StepStatistics
from dpvision.views import Pool


@dataclass(frozen=True, kw_only=True)
class DPSGDConfig(GradientSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        network, network_options: see :func:`dpvision.networks.build_network`.

    The others are those of :class:`GradientSettings`.
    """

    network: str
    network_options: dict[str, Any] = field(default_factory=dict)


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
    model: Classifier,
    images: Images,
    config: DPSGDConfig,
    plan: TrainingPlan,
    account: Account,
    random: RandomSource,
    *,
    pool: Pool | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[StepStatistics], None] | None = None,
    on_batch: OnBatch | None = None,
) -> int:
    """Train ``model`` in place; returns how many releases were lost in interruptions. See :func:`descend`.
    ``pool``: public images, where the settings name some.
    """
    (stage,) = plan.stages
    assert images.labels is not None  # they were checked when the run was prepared
    return descend(
        model,
        images.pixels,
        images.labels,
        config.views(pool),
        config,
        [config.phase()],
        stage,
        account,
        random,
        ids=images.ids,
        checkpoints=checkpoints,
        on_step=on_step,
        on_batch=on_batch,
    )
