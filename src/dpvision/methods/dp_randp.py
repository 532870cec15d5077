"""DP-RandP (Tang et al., arXiv 2306.06076): an encoder that was learned from random processes, or made of
wavelets, then DP-SGD for a new head on its features, then for all weights.

Phase I, the encoder, sees no private image (``dpvision prior train``). In Phase II the encoder stays as it is
and the head learns; in Phase III, if there is one, both do. The two have one account.

A head can learn from features that are computed once. Every example then enters every step of Phase II, which
costs little time and is free of the sampling noise of batches. With noise that is larger by N over the
expected batch size, the noise on the mean gradient is that of Phase III.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dpvision.images import Images
from dpvision.methods import gradient_descent
from dpvision.methods.features import EncoderSettings
from dpvision.methods.gradient_descent import Checkpoints, GradientSettings, descend
from dpvision.methods.settings import check
from dpvision.methods.stages import Stage, TrainingPlan
from dpvision.networks import Classifier
from dpvision.priors.feature_classifier import Head, encoded
from dpvision.privacy.account import Account
from dpvision.privacy.errors import InputError
from dpvision.privacy.noise import RandomSource
from dpvision.training import OnBatch, Phase, StepStatistics, whole_number
from dpvision.views import Pool, Unchanged, ViewPolicy

PhaseII = Literal["features", "sampled"]
PhaseIII = Literal["full", "none"]


@dataclass(frozen=True, kw_only=True)
class DPRandPConfig(GradientSettings, EncoderSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        head, feature_norm: see :class:`dpvision.priors.feature_classifier.FeatureClassifier`.
        phase_ii: "features", computed once, and before a Phase III all of them in every step; or "sampled",
            features of the views of a batch, computed in every step, with one average over both phases, as
            in the paper.
        phase_iii: "full", all weights learn in the end; or "none", the head alone ever does.
        phase_ii_share: of the steps, with a Phase III.
        phase_iii_learning_rate: learning_rate is that of Phase II.

    The others are those of :class:`EncoderSettings` and :class:`GradientSettings`.
    """

    head: Head = "linear"
    feature_norm: float = 1.0
    phase_ii: PhaseII = "features"
    phase_iii: PhaseIII = "none"
    phase_ii_share: float = 1 / 3
    phase_iii_learning_rate: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.phase_iii_learning_rate
        check(self.phase_ii in get_args(PhaseII), "phase_ii", " or ".join(get_args(PhaseII)), self.phase_ii)
        check(
            self.phase_iii in get_args(PhaseIII), "phase_iii", " or ".join(get_args(PhaseIII)), self.phase_iii
        )
        check(0 <= self.phase_ii_share <= 1, "phase_ii_share", "between 0 and 1", self.phase_ii_share)
        check(0 < rate < math.inf, "phase_iii_learning_rate", "above 0 and finite", rate)
        if (self.phase_ii, self.phase_iii) == ("features", "none") and not self.views_are_images():
            raise InputError(
                "views need phase_ii = sampled or phase_iii = full, for else features are computed once; "
                "mirror adds those of the mirrored image"
            )

    def head_options(self) -> dict[str, Any]:
        return {"head": self.head, "feature_norm": self.feature_norm}

    def parts(self, num_examples: int) -> list[Part]:
        """What is trained, one after the other. A phase without steps is left out."""
        if self.phase_iii == "none":
            on_features = self.phase_ii == "features"
            trains = None if on_features else _is_of_head
            return [Part(self, [replace(self.phase(), trains=trains)], on_features=on_features)]
        steps = round(self.phase_ii_share * self.steps)
        head = replace(self.phase(), steps=steps)
        everything = replace(
            self.phase(),
            steps=self.steps - steps,
            learning_rate=self.phase_iii_learning_rate,
            trains=lambda name: True,
        )
        if self.phase_ii == "sampled":
            phases = [phase for phase in (replace(head, trains=_is_of_head), everything) if phase.steps > 0]
            return [Part(self, phases)]
        parts = []
        if head.steps > 0:
            of_all = replace(self, steps=head.steps, expected_batch_size=num_examples)
            parts.append(Part(of_all, [head], num_examples / self.expected_batch_size, on_features=True))
        if everything.steps > 0:
            parts.append(Part(replace(self, steps=everything.steps), [everything]))
        return parts


@dataclass(frozen=True)
class Part:
    """Phases of training that have one model, one sampler and one average.

    Attributes:
        settings: their steps together, and their expected batch size.
        phases: one after the other.
        noise: as a multiple of the run's noise multiplier.
        on_features: whether the head alone is trained, on features that are computed once.
    """

    settings: DPRandPConfig
    phases: list[Phase]
    noise: float = 1.0
    on_features: bool = False


def _is_of_head(name: str) -> bool:
    """Whether a parameter of the classifier is the head's."""
    return name.startswith("network.head.")


def stages(config: DPRandPConfig, num_examples: int, noise_multiplier: float) -> tuple[Stage, ...]:
    """All that a run releases, one stage for each part. InputError as :func:`gradient_descent.stages`."""
    gradient_descent.check_batch(config, num_examples)
    return tuple(
        gradient_descent.stage(part.settings, num_examples, part.noise * noise_multiplier)
        for part in config.parts(num_examples)
    )


def train(
    model: Classifier,
    images: Images,
    config: DPRandPConfig,
    plan: TrainingPlan,
    account: Account,
    random: RandomSource,
    *,
    pool: Pool | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[StepStatistics], None] | None = None,
    on_batch: OnBatch | None = None,
) -> int:
    """Train the model in place; returns how many releases were lost in interruptions. See :func:`descend`.
    ``pool``: public images, where the settings name some.
    """
    assert images.labels is not None  # they were checked when the run was prepared
    saved = checkpoints.load() if checkpoints else None
    reached, lost = _progress(saved, plan) if saved else (0, 0)
    for number, (part, stage) in enumerate(zip(config.parts(plan.num_examples), plan.stages, strict=True)):
        if number < reached:
            continue
        trained: nn.Module = model
        examples = images.pixels
        policy: ViewPolicy = config.views(pool)
        shown: OnBatch | None = on_batch
        if part.on_features:
            trained, examples = model.network.get_submodule("head"), encoded(model, examples)
            policy = Unchanged()
            shown = partial(on_batch, encode=partial(encoded, model)) if on_batch else None
        before = sum(earlier.count for earlier in plan.stages[:number])
        lost += descend(
            trained,
            examples,
            images.labels,
            policy,
            part.settings,
            part.phases,
            stage,
            account,
            random.at("part", number),
            ids=images.ids,
            checkpoints=PartCheckpoints(checkpoints, number, lost) if checkpoints else None,
            on_step=partial(_told, on_step, before) if on_step else None,
            on_batch=shown,
        )
    return lost


def _progress(saved: Mapping[str, Tensor], plan: TrainingPlan) -> tuple[int, int]:
    """The part that a checkpoint is of, and how many releases were lost before it."""
    try:
        return (
            whole_number(saved, "part", len(plan.stages) - 1),
            whole_number(saved, "lost", sum(stage.count for stage in plan.stages)),
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"checkpoint: it is of another run, or damaged ({error})") from error


def _told(on_step: Callable[[StepStatistics], None], before: int, statistics: StepStatistics) -> None:
    """Steps are counted through all parts."""
    on_step(replace(statistics, step=before + statistics.step))


@dataclass(frozen=True)
class PartCheckpoints:
    """The checkpoints of one part of a run, which say so, and how many releases were lost before it."""

    checkpoints: Checkpoints
    part: int
    lost: int

    def load(self) -> dict[str, Tensor] | None:
        """The last state, if it is of this part."""
        state = self.checkpoints.load()
        return state if state and int(state["part"]) == self.part else None

    def save(self, state: Callable[[], Mapping[str, Tensor]], final: bool) -> None:
        marks = {"part": torch.tensor(self.part), "lost": torch.tensor(self.lost)}
        self.checkpoints.save(lambda: {**state(), **marks}, final)

    def reserve(self, size: int) -> None:
        self.checkpoints.reserve(size)
