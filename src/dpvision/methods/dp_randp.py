"""DP-RandP (Tang et al., arXiv 2306.06076): an encoder that was learned from random processes, or made of
wavelets, then DP-SGD for a new head on its features, then for all weights.

Phase I, the encoder, sees no private image (``dpvision prior train``). In Phase II the encoder stays as it is
and the head learns; in Phase III, if there is one, both do. The two have one account.

A head can learn from features that are computed once. Every example then enters every step of Phase II, which
costs little time and is free of the sampling noise of batches. With noise that is larger by N over the
expected batch size, the noise on the mean gradient is that of Phase III.

Where the head alone learns, a small share of the budget then calibrates it: see
:mod:`dpvision.methods.calibration`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dpvision.gradients import check_clipping_norm
from dpvision.images import ImageSet
from dpvision.images.rows_on_disk import RowsOnDisk
from dpvision.methods import calibration
from dpvision.methods.calibration import LeftOut, Scale, logits_and_features, logits_and_squares
from dpvision.methods.class_weights import weigh, with_counts, with_counts_learned
from dpvision.methods.classifiers import finished_classifier, learned_weights
from dpvision.methods.estimates import (
    Estimate,
    seconds_per_prediction,
    seconds_per_release,
    start_and_example,
    training_memory,
    training_seconds,
)
from dpvision.methods.features import (
    PRIOR,
    EncoderSettings,
    features_memory,
    features_of,
    public_model,
    trial_features,
)
from dpvision.methods.going_on import Begin
from dpvision.methods.gradient_descent import (
    GradientSettings,
    check_batch,
    clipped_gradient,
    descend,
    images_over_noise,
    stage,
    way_for_noise,
)
from dpvision.methods.method import Finished, Learned, Makes, Workplace
from dpvision.methods.session import Session
from dpvision.methods.settings import check, check_settings, check_share, with_overrides
from dpvision.methods.stages import Stage
from dpvision.methods.start import Start
from dpvision.networks import Classifier
from dpvision.priors.feature_classifier import Head, encoded
from dpvision.priors.remembered import features_remembered
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.values import check_rate
from dpvision.training import Phase
from dpvision.views import Unchanged

PhaseII = Literal["features", "sampled"]
PhaseIII = Literal["full", "top", "norms", "none"]
On = Literal["views", "features", "logits"]

MOMENTUM = 0.9

HEAD, ENCODER = "network.head.", "network.encoder."
"""The beginnings of the names of the head's tensors and of the encoder's."""


WHITEN = 0.2
"""λ of whitened features; from 0.02 to 0.4 it changed the accuracy by half a point."""

# Of a head alone, by ``benchmarks/other_heads.py`` on digits and CIFAR-10: 200 steps beat 100 by 0.3 points.
# The average of about ten last iterates of a constant rate beats rates that fall to zero, the more the more
# noise there is. It bears a little more of it than moves a logit by one.
STEPS = 200
NOISE_OF_A_LOGIT = 1.25
# Gradients of features of norm one are at most √2 long, and 0.95 at first with ten classes. Those that are
# clipped lose their length, which says how wrong an image is, and noise falls in proportion.
CLIP = 0.4
# Larger steps of all images make the loss of K classes swing: steps with momentum β settle below a
# rate of 2(1 + β)·K/λ, where λ, the largest eigenvalue of the features' second moment, was 0.3 to 0.6.
LARGEST_RATE_OF_A_CLASS = 12.0
CALIBRATION_SHARE = 0.02  # with 5 %, 300 images lost up to a point of accuracy to the head's larger noise
SMALLEST_FOR_PRIORS = 16  # pixels; of smaller images, and of grey ones, patches are taken
SMALLEST_FOR_PATCHES = 5  # pixels
# Of 32 × 32 pixels: features of so many take about six minutes on two cores, and about fifteen.
MOST_FOR_TWO_PRIORS, MOST_FOR_LARGE_PRIOR = 10_000, 60_000


@dataclass(frozen=True, kw_only=True)
class DPRandPConfig(GradientSettings, EncoderSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        head: chooses the classifier of features: "linear", without a bias; "linear_with_intercept"; or
            "affine", the paper's GroupNorm and linear layer.
        feature_norm: is the length to which features are scaled before a linear head.
        phase_ii: gives the head "features", computed once, and before a Phase III all of them in every step;
            or "sampled", features of the views of a batch, computed in every step, with one average over both
            phases, as in the paper.
        phase_iii: trains, in the end, all weights if "full"; the head and the last third of the encoder's
            layers if "top"; the head and the scales and shifts of the encoder's norms if "norms"; with
            "none" the head alone ever learns.
        phase_ii_share: is the share of the steps that train the head alone, where a Phase III follows.
        phase_iii_learning_rate: scales the steps of Phase III, as learning_rate does those of Phase II.
        calibration_share: is the share of the budget, in terms of 1/σ² (T steps at sample rate q as T·q²/σ²),
            that finds the scale of the logits at which probabilities come true, once a linear head has
            learned from features by SGD and nothing else learns; 0 leaves the logits as they are.
        calibration_learning_rate: scales the steps of that scale's logarithm.

    The others are those of :class:`EncoderSettings` and :class:`GradientSettings`.
    """

    head: Head = "linear"
    feature_norm: float = 1.0
    phase_ii: PhaseII = "features"
    phase_iii: PhaseIII = "none"
    phase_ii_share: float = 1 / 3
    phase_iii_learning_rate: float = 0.4
    calibration_share: float = 0.0
    calibration_learning_rate: float = calibration.LARGEST_RATE

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.phase_ii in get_args(PhaseII), "phase_ii", " or ".join(get_args(PhaseII)), self.phase_ii)
        check(
            self.phase_iii in get_args(PhaseIII), "phase_iii", " or ".join(get_args(PhaseIII)), self.phase_iii
        )
        check(0 <= self.phase_ii_share <= 1, "phase_ii_share", "between 0 and 1", self.phase_ii_share)
        check_rate(self.phase_iii_learning_rate, "phase_iii_learning_rate")
        share = self.calibration_share
        if share:
            check_share(share, "calibration_share")
        check_rate(self.calibration_learning_rate, "calibration_learning_rate")
        if share and not self.has_a_scale():
            raise InputError(
                "calibration_share: only a linear head that learns by SGD from features, without a Phase "
                "III, is calibrated; leave calibration_share out, or set it to 0"
            )
        if (self.phase_ii, self.phase_iii) == ("features", "none") and not self.views_are_images():
            raise InputError(
                "views need phase_ii = sampled or a Phase III, for else features are computed once; "
                "mirror adds those of the mirrored image"
            )

    def head_options(self) -> dict[str, Any]:
        return {"head": self.head, "feature_norm": self.feature_norm}

    def has_a_scale(self) -> bool:
        """Say whether the head can be calibrated: what an image has added to its logits must be known."""
        alone = (self.phase_ii, self.phase_iii) == ("features", "none")
        return alone and self.head != "affine" and self.optimizer == "sgd"

    def parts(self, num_examples: int, thawed: Collection[str] = ()) -> list[Part]:
        """Return the parts that are trained, one after the other. A phase without steps is left out.

        Args:
            num_examples: N.
            thawed: the names of the parameters that learn in Phase III, where parts are to be trained.
        """
        if self.phase_iii == "none":
            on_features = self.phase_ii == "features"
            trains = None if on_features else _is_of_head
            phases = [replace(self.phase(), trains=trains)]
            parts = [Part(self, phases, on="features" if on_features else "views", name="Phase II")]
            return parts + self._calibration(num_examples)
        steps = round(self.phase_ii_share * self.steps)
        head = replace(self.phase(), steps=steps)
        body = replace(
            self.phase(),
            steps=self.steps - steps,
            learning_rate=self.phase_iii_learning_rate,
            trains=lambda name: name in thawed,
        )
        if self.phase_ii == "sampled":
            phases = [phase for phase in (replace(head, trains=_is_of_head), body) if phase.steps > 0]
            return [Part(self, phases, name="Phases II and III")]
        parts = []
        if head.steps > 0:
            of_all = replace(self, steps=head.steps, expected_batch_size=num_examples)
            noise = num_examples / self.expected_batch_size
            parts.append(Part(of_all, [head], noise, on="features", name="Phase II"))
        if body.steps > 0:
            parts.append(Part(replace(self, steps=body.steps), [body], name="Phase III"))
        return parts

    def _calibration(self, num_examples: int) -> list[Part]:
        """Return the part that learns the scale of the logits, if there is one."""
        if not self.calibration_share:
            return []
        settings = replace(
            self,
            steps=calibration.STEPS,
            expected_batch_size=num_examples,
            max_grad_norm=calibration.CLIP,
            learning_rate=self.calibration_learning_rate,
            momentum=0.0,
            schedule="constant",
            ema_decay=0.9,
            precision="float32",
            engine="by-size",  # of one number there is nothing to measure
        )
        # T steps with sample rate q and noise σ count as T·q²/σ², exactly so for q = 1.
        of_head = self.steps * (self.expected_batch_size / num_examples) ** 2
        noise = math.sqrt((1 / self.calibration_share - 1) * calibration.STEPS / of_head)
        return [
            Part(
                settings,
                [settings.phase()],
                noise,
                on="logits",
                name="calibration",
                of=" of the logits' scale",
            )
        ]


@dataclass(frozen=True)
class Part:
    """Phases of training that have one model, one sampler and one average.

    Attributes:
        settings: their steps together, and their expected batch size.
        phases: one after the other.
        noise: as a multiple of the run's noise multiplier.
        on: what is trained on: "features" that are computed once, for the head alone; their "logits", for the
            scale of these; or "views" of images.
        name: the name of the phases, for who watches.
        of: says what the gradients are of, for the release card, where it is not the weights.
    """

    settings: DPRandPConfig
    phases: list[Phase]
    noise: float = 1.0
    on: On = "views"
    name: str = "training"
    of: str = ""


def is_linear_head(settings: Mapping[str, Any]) -> bool:
    """Say whether what learns is a linear head alone: several of those, on the same features, can be
    averaged.
    """
    return settings.get("phase_iii", "none") == "none" and settings.get("head", "linear") != "affine"


def _is_of_head(name: str) -> bool:
    """Say whether a parameter of the classifier is the head's."""
    return name.startswith(HEAD)


def thawed(model: Classifier, phase_iii: PhaseIII) -> set[str]:
    """Return the names of the parameters that learn in Phase III, or in the end: the head's, and some of the
    encoder's. Layers are modules that have parameters of their own, in the order in which they are defined.

    Raises:
        InputError: the encoder has no layers or norms that could learn.
    """
    names = [name for name, _ in model.named_parameters()]
    if phase_iii == "full":
        return set(names)
    layers = [
        (f"{name}.", module)
        for name, module in model.named_modules()
        if not _is_of_head(f"{name}.") and any(True for _ in module.parameters(recurse=False))
    ]
    if phase_iii == "top":
        learning = [name for name, _ in layers[-max(1, len(layers) // 3) :]]
    elif phase_iii == "norms":
        learning = [name for name, module in layers if isinstance(module, nn.GroupNorm | nn.LayerNorm)]
    else:
        return set(filter(_is_of_head, names))
    if not learning:
        encoder = features_of(model).encoder.config["name"]
        what = "layers" if phase_iii == "top" else "GroupNorm or LayerNorm"
        raise InputError(
            f"phase_iii = {phase_iii}: encoder {encoder} has no {what} that could learn; choose another "
            f"encoder, or phase_iii = none"
        )
    return {name for name in names if _is_of_head(name) or name.startswith(tuple(learning))}


class DPRandP:
    """Train a head on features that were learned from random processes, then, if asked for, all weights
    (Tang et al., arXiv 2306.06076).
    """

    name = "dp-randp"
    makes: Makes = "a classifier"
    needs_labels = True
    config_class: type = DPRandPConfig

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPRandPConfig:
        """Choose the head alone, unless Phase III is asked for."""
        check_settings(self.config_class, overrides)
        if overrides.get("phase_iii", "none") != "none":
            config = _with_phase_iii(facts, device)
        else:
            config = _head_alone(facts, budget, device, overrides)
            if overrides.get("phase_ii") == "sampled":
                config = _sampled(config, facts)
        return _calibrated(with_overrides(config, overrides), facts, budget, overrides)

    def stages(self, config: DPRandPConfig, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """Return one stage for each part; another one may count the classes."""
        check_batch(config, facts.num_examples)
        stages = [
            stage(part.settings, facts.num_examples, part.noise * noise_multiplier, part.of)
            for part in config.parts(facts.num_examples)
        ]
        return with_counts(config, facts, stages)

    def estimate(self, config: DPRandPConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        model = config.build_model(facts, fit=False).to(device)
        seconds, memory = 0.0, 0
        for part in config.parts(facts.num_examples, thawed(model, config.phase_iii)):
            if part.on == "logits":
                seconds += part.settings.steps * seconds_per_release(Scale())
                continue
            some = (_on_features if part.on == "features" else _on_views)(part, model, facts.num_examples)
            seconds, memory = seconds + some.seconds, max(memory, some.memory_bytes)
        return Estimate(seconds, memory, some.seconds_per_image)

    def learn(self, config: DPRandPConfig, session: Session) -> Learned:
        """Train the head, then, in a Phase III, all, or else the scale of the head's logits."""
        return self.learn_from(config, session, None)

    def learn_from(self, config: DPRandPConfig, session: Session, begin: Begin | None) -> Learned:
        """Train a classifier from given weights; see :class:`dpvision.methods.going_on.GoesOn`."""
        model = public_model(config, session, begin)
        head, num_examples = features_of(model).head, session.facts.num_examples
        encode = partial(encoded, model, tell=partial(session.tell, "features"))

        def said(images: ImageSet) -> Tensor | RowsOnDisk:
            assert isinstance(head, nn.Linear)
            say = logits_and_squares if images.units is None else logits_and_features
            return say(head, encode(images))

        with features_remembered():
            parts = config.parts(num_examples, thawed(model, config.phase_iii))
            for number, part in enumerate(parts):
                train = partial(descend, session, number, part.name)
                if part.on == "features":
                    train(head, part.settings, part.phases, Unchanged(), encode)
                elif part.on == "logits":
                    assert isinstance(head, nn.Linear)
                    scale = Scale().to(session.device)
                    left_out = LeftOut(config, head.in_features, num_examples)
                    train(scale, part.settings, part.phases, left_out, said)
                    scale.apply_to(head)
                else:
                    train(model, part.settings, part.phases, config.views(session.pool))
        of_head_alone = config.phase_iii == "none" and begin is None
        learned = learned_weights(model, HEAD if of_head_alone else "")
        return with_counts_learned(config, session, len(parts), learned)

    def settings_of_start(self, start: Start) -> dict[str, Any]:
        """Return the encoder and the form of the head. InputError where there is none."""
        if "encoder" not in start.config:
            raise InputError(
                f"the classifier of {start.place} is no head on an encoder, so that dp-randp cannot go on "
                "from it; name dp-sgd, which can (--method)"
            )
        if "encoder" not in start.settings:
            raise InputError(
                f"the encoder of {start.place} is a file, which only the run's directory names, and not its "
                "release; give the directory"
            )
        encoder = {name: start.settings[name] for name in ("encoder", "encoder_options")}
        return encoder | {name: start.config[name] for name in ("mirror", "head", "feature_norm")}

    def taken_over(self, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings where the same phases follow, none where others do. The head has learned, so
        that a Phase III begins at once. InputError where one is to end that has begun.
        """
        before, now = settings["phase_iii"], given.get("phase_iii", settings["phase_iii"])
        if before not in ("none", now):
            raise InputError(
                f"phase_iii was {before}, and what has learned goes on learning; leave phase_iii out"
            )
        at_once = {} if now == "none" else {"phase_ii_share": 0.0}
        same = now == before and given.get("phase_ii", settings["phase_ii"]) == settings["phase_ii"]
        return {**settings, **at_once} if same else at_once

    def learned_anew(self, settings: Mapping[str, Any]) -> str:
        """Return a linear head, where it alone learns. One that learned on from another would have the noise
        of both runs.
        """
        return HEAD if is_linear_head(settings) else ""

    def finish(
        self, config: DPRandPConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Return the encoder with what was learned, and its classes weighted."""
        fit = not any(name.startswith(ENCODER) for name in learned.tensors)  # else it is replaced at once
        finished = finished_classifier(lambda: config.build_model(facts, fit=fit), learned, workplace)
        return weigh(config, learned, finished)


def _head_alone(
    facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
) -> DPRandPConfig:
    """Choose settings in which all examples enter every step: with features at hand a step costs little, and
    exact steps lose less to noise than sampled ones. The rate follows from N, ε, δ, the steps and the number
    of classes. The rule was tried on the sets of ``benchmarks/defaults.py``; clipping and the encoders on
    digits, CIFAR-10 and Fashion-MNIST alone.
    """
    num_examples, image_shape = facts.num_examples, facts.image_shape
    encoder, options = _encoder(facts, device)
    if overrides.get("encoder", encoder) != encoder:
        encoder, options = overrides["encoder"], {}
    clip = overrides.get("max_grad_norm", CLIP)
    check_clipping_norm(clip)
    way = way_for_noise(images_over_noise(num_examples, budget), MOMENTUM, "constant")
    steps = overrides.get("steps", STEPS)
    rate = min(
        NOISE_OF_A_LOGIT * way / clip / max(steps, 1), LARGEST_RATE_OF_A_CLASS * len(facts.class_names)
    )
    return DPRandPConfig(
        encoder=encoder,
        encoder_options=options,
        mirror=image_shape[0] == 3,  # photographs have no handedness; letters and digits, often grey, do
        steps=steps,
        expected_batch_size=num_examples,
        max_grad_norm=clip,
        learning_rate=float(f"{rate:.3g}"),
        momentum=MOMENTUM,
        schedule="constant",
        ema_decay=0.9,
    )


def _calibrated(
    config: DPRandPConfig, facts: PublicFacts, budget: Budget, overrides: Mapping[str, Any]
) -> DPRandPConfig:
    """Choose how the head is calibrated, if it can be, and as far as ``overrides`` leave it open."""
    if not config.has_a_scale():
        return config
    share = overrides.get("calibration_share", CALIBRATION_SHARE)
    if not share:
        return config
    rate = calibration.learning_rate(images_over_noise(facts.num_examples, budget), share)
    chosen = {"calibration_share": share, "calibration_learning_rate": float(f"{rate:.3g}")}
    return replace(config, **chosen | dict(overrides))


def _sampled(config: DPRandPConfig, facts: PublicFacts) -> DPRandPConfig:
    """Choose settings where features of views are computed in every step, so steps take batches: ten epochs
    of them, whose learning rates add up to what those of all examples do.
    """
    batch = max(1, min(facts.num_examples // 8, 1024))
    steps = round(10 * facts.num_examples / batch)
    # Rates that fall linearly begin √3 times as high, see `way_for_noise`; more noise was not tried here.
    falling = math.sqrt(3) / NOISE_OF_A_LOGIT
    return replace(
        config,
        phase_ii="sampled",
        mirror=False,  # flip is a view
        steps=steps,
        expected_batch_size=batch,
        learning_rate=float(f"{falling * config.learning_rate * config.steps / steps:.3g}"),
        schedule="linear",
        ema_decay=0.98,
    )


def _with_phase_iii(facts: PublicFacts, device: torch.device) -> DPRandPConfig:
    """Choose settings with the prior alone, for scattering cannot learn. Where there is no GPU, take one view
    of each image and a head that learns from features. At a norm of 16 the gradients of head and body are of
    one size.
    """
    fast = device.type == "cuda"
    return DPRandPConfig(
        encoder=PRIOR,
        feature_norm=16.0,
        phase_ii="sampled" if fast else "features",
        phase_iii="full",
        phase_ii_share=1 / 4,
        steps=320,
        expected_batch_size=max(1, min(facts.num_examples // 24, 4096)),
        augmult=16 if fast else 1,
        pad=min(facts.image_shape[1:]) // 8,
        flip=facts.image_shape[0] == 3,
        max_grad_norm=16.0,
        learning_rate=0.5,
        phase_iii_learning_rate=0.12,
        momentum=0.9,
        schedule="linear",
        ema_decay=0.98,
    )


def _encoder(facts: PublicFacts, device: torch.device) -> tuple[str, dict[str, Any]]:
    """Choose an encoder and its options, whitened: priors for colour images, two large ones where there is a
    GPU or there are few images, one of them where there are not too many; patches for grey images and small
    ones.
    """
    channels, height, width = facts.image_shape
    side = min(height, width)
    if side < SMALLEST_FOR_PATCHES:
        return "scattering", {"J": 1, "cells": max(1, side // 2), "groups": 9}
    if channels == 1 or side < SMALLEST_FOR_PRIORS:
        size, cells, centroids = (6, 3, 300) if side >= SMALLEST_FOR_PRIORS else (side // 2, 2, 150)
        return "patches", {"size": size, "cells": cells, "centroids": centroids, "whiten": WHITEN}
    images = facts.num_examples * height * width / 32**2
    if device.type == "cuda" or images <= MOST_FOR_TWO_PRIORS:
        return "wrn-16-4-long+wrn-16-4", {"parts": [{"whiten": WHITEN}, {"whiten": WHITEN}]}
    return "wrn-16-4-long" if images <= MOST_FOR_LARGE_PRIOR else PRIOR, {"whiten": WHITEN}


def _on_features(part: Part, model: Classifier, num_examples: int) -> Estimate:
    features, encoding = trial_features(model)
    settings, head = part.settings, model.network.get_submodule("head")

    def views(examples: int) -> tuple[Tensor, Tensor]:
        some = features[torch.arange(examples) % len(features)].unsqueeze(1)
        return some, torch.zeros(examples, dtype=torch.int64, device=features.device)

    engine = clipped_gradient(head, settings)
    start, per_example = start_and_example(engine, views, settings.expected_batch_size)
    per_step = settings.expected_batch_size * per_example + seconds_per_release(head)
    encoded_images = num_examples + features_of(model).encoder.images_to_fit
    seconds = encoded_images * encoding + start + settings.steps * per_step
    memory = features_memory(model, num_examples, features)
    return Estimate(seconds, 2 * num_examples * math.prod(model.image_shape) + memory, encoding)


def _on_views(part: Part, model: Classifier, num_examples: int) -> Estimate:
    seconds = 0.0
    for phase in part.phases:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(phase.trains is None or phase.trains(name))
        seconds += training_seconds(part.settings, model, phase.steps)
    memory = training_memory(model, num_examples)
    return Estimate(seconds, memory, seconds_per_prediction(model))
