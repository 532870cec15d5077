"""DP-RandP (Tang et al., arXiv 2306.06076): an encoder that was learned from random processes, or made of
wavelets, then DP-SGD for a new head on its features, then for all weights.

Phase I, the encoder, sees no private image (``dpvision prior train``). In Phase II the encoder stays as it is
and the head learns; in Phase III, if there is one, both do. The two have one account and one average.
Without Phase III the features of the private images are computed once, and every step is a noisy gradient sum
over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import nn

from dpvision.images import Images
from dpvision.methods.features import EncoderSettings
from dpvision.methods.gradient_descent import Checkpoints, GradientSettings, descend
from dpvision.methods.settings import check
from dpvision.methods.stages import TrainingPlan
from dpvision.networks import Classifier
from dpvision.priors.feature_classifier import Head, encoded
from dpvision.privacy.account import Account
from dpvision.privacy.errors import InputError
from dpvision.privacy.noise import RandomSource
from dpvision.training import Phase, StepStatistics
from dpvision.views import SelfAugmentation, Unchanged, ViewPolicy

PhaseIII = Literal["full", "none"]


@dataclass(frozen=True, kw_only=True)
class DPRandPConfig(GradientSettings, EncoderSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        head, feature_norm: see :class:`dpvision.priors.feature_classifier.FeatureClassifier`.
        phase_iii: "full", all weights learn in the end; or "none", the head alone ever does.
        phase_ii_share: of the steps, with a Phase III.
        phase_iii_learning_rate: learning_rate is that of Phase II.

    The others are those of :class:`EncoderSettings` and :class:`GradientSettings`; views are made where there
    is a Phase III, in Phase II too.
    """

    head: Head = "linear"
    feature_norm: float = 1.0
    phase_iii: PhaseIII = "none"
    phase_ii_share: float = 1 / 3
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

    def head_options(self) -> dict[str, Any]:
        return {"head": self.head, "feature_norm": self.feature_norm}

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
