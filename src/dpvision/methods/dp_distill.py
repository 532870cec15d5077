"""Synthetic images that a private teacher chooses and labels: its knowledge goes into the release, for those
who learn from the images (knowledge distillation, Hinton et al., arXiv 1503.02531).

A share of the budget trains a classifier, the head of :mod:`dpvision.methods.dp_randp`; the rest releases
the moments of each class, as :mod:`dpvision.methods.dp_moments` does. The law with these moments knows
colours and shapes in the large, and the teacher what tells classes apart in detail. So an image of the law is
drawn several times, with the details of different public images, and the teacher says which to take, and how
probable each class is for it. All that is post-processing, at no further cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpvision.methods.class_weight_settings import NONE
from dpvision.methods.continued import OfPart
from dpvision.methods.details import with_fitting_details
from dpvision.methods.dp_moments import DPMoments, DPMomentsConfig, check_moments
from dpvision.methods.dp_randp import (
    HEAD,
    SMALLEST_FOR_PRIORS,
    WHITEN,
    DPRandP,
    DPRandPConfig,
    is_linear_head,
)
from dpvision.methods.estimates import Estimate, seconds_of_process_images
from dpvision.methods.features import PRIOR, features_of
from dpvision.methods.gradient_descent import noise_of_single_release
from dpvision.methods.method import Finished, Learned, Makes, Workplace
from dpvision.methods.part_of_session import PartOfSession
from dpvision.methods.releases import mean_of, read_release, stated
from dpvision.methods.session import Session
from dpvision.methods.settings import check, check_settings, check_share, with_overrides
from dpvision.methods.stages import Stage, precision
from dpvision.networks import Classifier
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.weights import safetensors_bytes
from dpvision.priors.encoders import is_of_package
from dpvision.priors.encoders.process_images import process_images
from dpvision.priors.taught_images import MOST_CANDIDATES, TaughtImages
from dpvision.privacy.accounting import epsilon
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.sampling import FullBatch
from dpvision.training import check_tensors

TEACHER, MOMENTS = "teacher", "moments"
"""What tensors and facts of the two parts are called by."""

SHARE = "share_of_teacher"
"""The setting, and the fact about both parts, that says which share of the budget the teacher had."""

SETTINGS = "settings"
"""The fact about the teacher that has those of its settings that are part of what is released."""

OF_TEACHER = ("encoder", "encoder_options", "mirror", "head", "feature_norm", "phase_iii", "class_weight")
"""Their names."""

NOISE = "noise"
"""The fact about the teacher that says how much noise it has: see `_noise_of_teacher`."""

ABOUT = ("num_examples", "image_shape", "class_names")
"""The facts about the images."""

RELEASED = "teacher_and_moments.safetensors"
"""The name of the file of both in a release."""

BALANCED_BY, MOST_BALANCED_BY = 100, 5000
"""The number of candidates of each class, and the most in all, by which the teacher is balanced."""


@dataclass(frozen=True, kw_only=True)
class DPDistillConfig:
    """Everything public about a run but the data and the budget.

    Attributes:
        share_of_teacher: is the share of the budget, in terms of 1/σ², that trains the teacher.
        candidates: is how many images are drawn for one, at most, until the teacher takes it for its class.
        num_details: says how many public images, of all random processes, give images their details, where
            they are larger than the moments' ``size``; by default none do where these are less than one and a
            half times as large.
        teacher: has the settings of the teacher, which are those of dp-randp.
        moments: has the settings of the law, which are those of dp-moments.

    Raises:
        InputError: a value is out of range.
    """

    share_of_teacher: float = 0.5
    candidates: int = 8
    num_details: int = 4000
    teacher: dict[str, Any] = field(default_factory=dict)
    moments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        share = self.share_of_teacher
        check_share(share, "share_of_teacher")
        most = MOST_CANDIDATES
        check(1 <= self.candidates <= most, "candidates", f"between 1 and {most}", self.candidates)
        check(0 <= self.num_details <= 10_000, "num_details", "between 0 and 10,000", self.num_details)

    def of_teacher(self) -> DPRandPConfig:
        """Return the settings of the teacher."""
        return DPRandPConfig(**self.teacher)

    def of_moments(self) -> DPMomentsConfig:
        """Return the settings of the law."""
        return DPMomentsConfig(**self.moments)

    def noise_of_teacher(self, facts: PublicFacts, noise_multiplier: float) -> float:
        """Return the noise multiplier of the teacher's stages, with which they have their share of 1/σ²."""
        of_teacher = precision(DPRandP().stages(self.of_teacher(), facts, 1.0))
        return noise_multiplier * math.sqrt(of_teacher / self.share_of_teacher)

    def noise_of_moments(self, noise_multiplier: float) -> float:
        """Return the noise multiplier of the moments' stages."""
        return noise_multiplier / math.sqrt(1 - self.share_of_teacher)


class DPDistill:
    """Draw images from laws with noisy moments, and let a teacher with a share of the budget choose and label
    them.
    """

    name = "dp-distill"
    makes: Makes = "images"
    needs_labels = True
    config_class: type = DPDistillConfig
    of_generator = (
        *(SHARE, "candidates", "num_details"),
        *(f"{TEACHER}.{name}" for name in OF_TEACHER),
        *(f"{MOMENTS}.{name}" for name in DPMoments.of_generator),
    )

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPDistillConfig:
        """Choose the settings of both parts as their methods do."""
        config: DPDistillConfig = with_overrides(DPDistillConfig(), overrides)
        for_teacher = _part(budget, config.share_of_teacher, facts.num_examples)
        teacher = DPRandP().default_config(facts, for_teacher, device, _with_features(config.teacher, facts))
        rest = _part(budget, 1 - config.share_of_teacher, facts.num_examples)
        moments = DPMoments().default_config(facts, rest, device, {"num_details": 0, **config.moments})
        needed = "empty: the teacher takes private images alone"
        check(not teacher.pool, "teacher: pool", needed, repr(teacher.pool))
        needed = '"none", as its answers are balanced afterwards'
        check(teacher.class_weight == NONE, "teacher: class_weight", needed, teacher.class_weight)
        check(moments.labelled, "moments: labelled", "true", moments.labelled)
        check(
            moments.num_details == 0,
            "moments: num_details",
            "0, as those here stand for it",
            moments.num_details,
        )
        config = with_fitting_details(config, overrides, moments.size, facts.image_shape)
        return replace(config, teacher=asdict(teacher), moments=asdict(moments))

    def stages(
        self, config: DPDistillConfig, facts: PublicFacts, noise_multiplier: float
    ) -> tuple[Stage, ...]:
        """Return the stages of the teacher, then those of the moments."""
        of_teacher = config.noise_of_teacher(facts, noise_multiplier)
        of_moments = config.noise_of_moments(noise_multiplier)
        return (
            *DPRandP().stages(config.of_teacher(), facts, of_teacher),
            *DPMoments().stages(config.of_moments(), facts, of_moments),
        )

    def estimate(self, config: DPDistillConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        teacher = DPRandP().estimate(config.of_teacher(), facts, device)
        moments = DPMoments().estimate(config.of_moments(), facts, device)
        of_candidate = teacher.seconds_per_image + moments.seconds_per_image
        balancing = _balanced_by(facts) * of_candidate
        is_smaller = config.of_moments().moments(facts).shape != facts.image_shape
        details = config.num_details if is_smaller else 0
        making = seconds_of_process_images(details, facts.image_shape)
        held = (1 + 3 * 4) * details * math.prod(facts.image_shape)  # as bytes, and thrice as float32
        return Estimate(
            teacher.seconds + moments.seconds + balancing + making,
            max(teacher.memory_bytes, moments.memory_bytes) + held,
            config.candidates * of_candidate,
        )

    def learn(self, config: DPDistillConfig, session: Session) -> Learned:
        """Train the teacher, then release the moments."""
        for_teacher, for_moments = _sessions(config, session)
        teacher = DPRandP().learn(config.of_teacher(), for_teacher)
        moments = DPMoments().learn(config.of_moments(), for_moments)
        about = stated(self.name, session.facts) | {SHARE: config.share_of_teacher}
        return _of_both(config, teacher, _noise_of_teacher(config, session), moments, about)

    def finish(
        self, config: DPDistillConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Make the teacher and the law, and balance what the teacher says of the law's images."""
        teacher = DPRandP().finish(config.of_teacher(), _of(learned, TEACHER), facts, workplace)
        law = DPMoments().finish(config.of_moments(), _of(learned, MOMENTS), facts, workplace)
        assert isinstance(teacher.model, Classifier)
        assert isinstance(law.model, ClampedNormal)
        if law.model.small_shape != law.model.image_shape and config.num_details:
            law.model.set_details(_details(facts.image_shape, config.num_details).to(workplace.device))
        generator = TaughtImages(law.model, teacher.model, config.candidates).to(workplace.device).eval()
        generator.balance(_balanced_by(facts), workplace.seed)
        encoder = features_of(teacher.model).encoder.config["name"]  # the setting may be a place
        about = {"encoder": encoder, "share": config.share_of_teacher, **teacher.card}
        files = {}
        if _can_be_refined(config.teacher):
            files[RELEASED] = safetensors_bytes(learned.tensors, learned.facts)
        return Finished(generator, files, {**law.card, TEACHER: about})

    def open_release(self, path: Path) -> Learned:
        """Read a teacher and moments."""
        return read_release(path, _check_both)

    def settings_of_release(self, learned: Learned) -> dict[str, Any]:
        """Return what says which teacher it is and what share it had, and what the moments are of."""
        return {
            SHARE: learned.facts[SHARE],
            TEACHER: OfPart(learned.facts[TEACHER][SETTINGS]),
            MOMENTS: OfPart(DPMoments().settings_of_release(_of(learned, MOMENTS))),
        }

    def learn_again(self, config: DPDistillConfig, earlier: Learned, session: Session) -> Learned:
        """Train another teacher and release the moments once more. Heads on the same features are averaged as
        sums are: each has noise of its own.
        """
        for_teacher, for_moments = _sessions(config, session)
        before, noise = _of(earlier, TEACHER), _noise_of_teacher(config, session)
        taught = DPRandP().learn(config.of_teacher(), for_teacher)
        heads, noise = mean_of(before.tensors, before.facts[NOISE], taught.tensors, noise)
        moments = DPMoments().learn_again(config.of_moments(), _of(earlier, MOMENTS), for_moments)
        return _of_both(config, replace(taught, tensors=heads), noise, moments, earlier.facts)


def _sessions(config: DPDistillConfig, session: Session) -> tuple[Session, Session]:
    """Return the session of the teacher's stages, which come first, and that of the others."""
    count = len(session.stages.stages)
    of_teacher = len(DPRandP().stages(config.of_teacher(), session.facts, 1.0))
    return PartOfSession(session, 0, of_teacher), PartOfSession(session, of_teacher, count - of_teacher)


def _noise_of_teacher(config: DPDistillConfig, session: Session) -> float:
    """Return the noise multiplier of a single release that has the teacher's share of the budget."""
    return session.stages.noise_multiplier / math.sqrt(config.share_of_teacher)


def _of_both(
    config: DPDistillConfig, teacher: Learned, noise: float, moments: Learned, about: Mapping[str, Any]
) -> Learned:
    """Return what was learned in both parts, with these facts and those of the parts."""
    tensors = {
        f"{part}.{name}": tensor
        for part, one in ((TEACHER, teacher), (MOMENTS, moments))
        for name, tensor in one.tensors.items()
    }
    settings = {name: config.teacher[name] for name in OF_TEACHER}
    of_teacher = {**teacher.facts, SETTINGS: settings, NOISE: noise}
    return Learned(tensors, {**about, TEACHER: of_teacher, MOMENTS: dict(moments.facts)})


def _part(budget: Budget, share: float, num_examples: int) -> Budget:
    """Return the budget of a single release that has a share, in terms of 1/σ², of the whole."""
    noise = noise_of_single_release(num_examples, budget) / math.sqrt(share)
    released = GaussianSumMechanism(noise, 1.0, FullBatch(num_examples)).event
    return replace(budget, epsilon=epsilon([released], budget.delta, budget.neighboring_relation))


def _with_features(teacher: Mapping[str, Any], facts: PublicFacts) -> dict[str, Any]:
    """Choose the teacher's features, if its settings do not, where dp-randp's own choice is a large prior. On
    CIFAR-10 networks learned more from a teacher on the small one, though it classifies worse itself, and it
    is several times as fast.
    """
    channels, *sides = facts.image_shape
    chosen: dict[str, Any] = {}
    if "encoder" not in teacher and channels == 3 and min(sides) >= SMALLEST_FOR_PRIORS:
        chosen = {"encoder": PRIOR, "encoder_options": {"cells": [4, 2, 1], "whiten": WHITEN}}
    return chosen | dict(teacher)


def _balanced_by(facts: PublicFacts) -> int:
    """Return the number of candidates by which the teacher's answers are balanced."""
    return min(BALANCED_BY * len(facts.class_names), MOST_BALANCED_BY)


def _of(learned: Learned, part: str) -> Learned:
    """Return what was learned in a part."""
    begin = f"{part}."
    tensors = {name.removeprefix(begin): t for name, t in learned.tensors.items() if name.startswith(begin)}
    if not tensors or part not in learned.facts:
        raise InputError(f"what was learned lacks the {part}; it is of another run, or damaged")
    return Learned(tensors, learned.facts[part])


def _can_be_refined(teacher: Mapping[str, Any]) -> bool:
    """Say whether a teacher with these settings can be averaged with another: a linear head alone. Its
    encoder is one of the package, for its settings are published, and other names may be of files on the
    owner's machine.
    """
    return is_linear_head(teacher) and is_of_package(teacher["encoder"])


def _check_both(learned: Learned, facts: PublicFacts) -> None:
    """Raise ValueError, TypeError, … unless tensors are a teacher and moments that their facts speak of."""
    teacher, moments = _of(learned, TEACHER), _of(learned, MOMENTS)
    settings = teacher.facts[SETTINGS]
    check_settings(DPRandPConfig, settings)
    if not (settings.keys() == set(OF_TEACHER) and _can_be_refined(settings)):
        raise ValueError("its teacher is of another method")
    check_settings(DPDistillConfig, {SHARE: learned.facts[SHARE]})
    DPDistillConfig(share_of_teacher=learned.facts[SHARE])
    if not 0 < teacher.facts[NOISE] < math.inf:
        raise ValueError("its teacher's noise has no standard deviation")
    check_moments(moments, facts)
    if any(moments.facts[name] != learned.facts[name] for name in ABOUT):
        raise ValueError("its moments are of other images")
    config = DPRandPConfig(**settings, steps=1, expected_batch_size=1, learning_rate=1.0)
    weights = config.build_model(facts, fit=False).state_dict()
    check_tensors(teacher.tensors, {name: t for name, t in weights.items() if name.startswith(HEAD)})


def _details(image_shape: tuple[int, int, int], count: int) -> Tensor:
    """Generate public images of all random processes, whose contrast differs: ``[count, C, H, W]``."""
    images = torch.cat([*process_images(image_shape, count, seed=0)]).float() / 255
    random = torch.Generator().manual_seed(0)
    return images * torch.rand(count, 1, 1, 1, generator=random)
