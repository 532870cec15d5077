"""Methods: one file per paper, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dpvision.methods import (
    dp_mix,
    dp_randp,
    dp_randp_defaults,
    dp_ridge,
    dp_sgd,
    dp_sgd_defaults,
    features,
    gradient_descent,
)
from dpvision.methods.estimates import Estimate
from dpvision.methods.settings import refuse_unknown, setting_types
from dpvision.methods.stages import Stage, TrainingPlan, make_plan, planned_at
from dpvision.networks import Classifier

__all__ = [
    "METHODS",
    "Estimate",
    "Method",
    "Stage",
    "TrainingPlan",
    "make_plan",
    "planned_at",
    "refuse_unknown",
    "setting_types",
]


@dataclass(frozen=True)
class Method:
    """One way to learn from private images, as functions of its settings (``config``).

    Attributes:
        name: by which users call it.
        config_class: a frozen dataclass of JSON types.
        default_config: see :func:`dpvision.methods.dp_sgd_defaults.default_config`.
        make_model: (config, images) → the untrained classifier, from the images' public facts.
        train: see :func:`dpvision.methods.dp_sgd.train`.
        estimate: see :func:`dpvision.methods.dp_sgd_defaults.estimate`.
        stages: (config, num_examples, noise_multiplier) → everything that a run releases.
    """

    name: str
    config_class: type
    default_config: Callable[..., Any]
    make_model: Callable[..., Classifier]
    train: Callable[..., int]
    estimate: Callable[..., Estimate]
    stages: Callable[[Any, int, float], tuple[Stage, ...]] = gradient_descent.stages


METHODS = {
    method.name: method
    for method in (
        *(
            Method(
                name,
                dp_sgd.DPSGDConfig,
                default_config,
                dp_sgd.make_model,
                dp_sgd.train,
                dp_sgd_defaults.estimate,
            )
            for name, default_config in (
                ("dp-sgd", dp_sgd_defaults.default_config),
                ("dp-mix-self", partial(dp_mix.default_config, k_diff=0)),
                ("dp-mix-diff", partial(dp_mix.default_config, k_diff=2)),
            )
        ),
        Method(
            "dp-randp",
            dp_randp.DPRandPConfig,
            dp_randp_defaults.default_config,
            features.make_model,
            dp_randp.train,
            dp_randp_defaults.estimate,
            dp_randp.stages,
        ),
        Method(
            "dp-ridge",
            dp_ridge.DPRidgeConfig,
            dp_ridge.default_config,
            features.make_model,
            dp_ridge.train,
            dp_ridge.estimate,
            dp_ridge.stages,
        ),
    )
}
