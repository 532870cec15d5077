"""DP-MEPF (Harder et al., arXiv 2205.12900): synthetic images from ONE noisy release of a mean embedding.

The private images are read once. Their features under a public encoder are summed by class
(:mod:`dpvision.privacy.mean_embedding`) and noise is added; then a generator is fitted to what was released.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dpvision.evaluation.progress import Progress
from dpvision.images import Images
from dpvision.methods.embedding import Embedding
from dpvision.methods.generator_fitting import FittingSettings, GeneratorFitting
from dpvision.methods.gradient_descent import Checkpoints
from dpvision.methods.settings import with_overrides
from dpvision.methods.stages import Stage, TrainingPlan
from dpvision.networks import Normalize
from dpvision.networks.by_row import by_row, rows_at_a_time
from dpvision.networks.generators import NARROWEST, WIDEST, Generator
from dpvision.priors import build_encoder
from dpvision.priors.encoder import Encoder
from dpvision.priors.feature_classifier import refuse_own_encoder
from dpvision.privacy.account import Account
from dpvision.privacy.errors import InputError
from dpvision.privacy.mean_embedding import MeanEmbedding
from dpvision.privacy.noise import RandomSource

LARGEST_SIDES = {1: 28, 3: 8}
"""Of images that the default encoder makes products of, grey and RGB. At 8 pixels more moments of CIFAR-10
are above the noise than at 16, and ResNet-9 learned more from what was made of them.
"""

NUMBERS_AT_A_TIME = 1 << 24
"""Features of so many numbers are computed at once: 64 MiB, and a few times as much on the way."""


@dataclass(frozen=True, kw_only=True)
class DPMEPFConfig(FittingSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        encoder, encoder_options: see :func:`dpvision.priors.build_encoder`.
        labelled: whether classes are released too, and images drawn by class.
        second_moment_weight, count_weight: c and b of :mod:`dpvision.privacy.mean_embedding`.

    The others are those of :class:`FittingSettings`.

    Raises:
        InputError: a value is out of range.
    """

    encoder: str
    encoder_options: dict[str, Any] = field(default_factory=dict)
    labelled: bool = True
    second_moment_weight: float = 0.0
    count_weight: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mechanism(1, 1)

    def mechanism(self, num_features: int, num_classes: int) -> MeanEmbedding:
        """What is released."""
        return MeanEmbedding(
            num_features,
            num_classes if self.labelled else None,
            self.second_moment_weight,
            self.count_weight,
        )


def stages(config: DPMEPFConfig, num_examples: int, noise_multiplier: float) -> tuple[Stage, ...]:
    """All that a run releases. Neither the number of features nor that of classes changes what it costs."""
    mechanism = config.mechanism(1, 1).mechanism(noise_multiplier, num_examples)
    what = "class-wise sums of features and class counts" if config.labelled else "the sum of features"
    return (Stage(what, mechanism, 1),)


def check_labels(config: DPMEPFConfig, images: Images) -> None:
    """Raises InputError where classes are to be released and there are no labels. That a class has no image
    is no error: whether it has one is private.
    """
    if config.labelled and images.labels is None:
        raise InputError(f"{images.source} has no labels; give labelled images, or set labelled to false")


def make_encoder(config: DPMEPFConfig, images: Images) -> Encoder:
    """The public encoder. InputError as :func:`build_encoder` and :func:`refuse_own_encoder`."""
    encoder = build_encoder(config.encoder, images.shape, **config.encoder_options)
    refuse_own_encoder(encoder, images)
    return encoder


@torch.no_grad()
def embedding_sums(
    encoder: Encoder,
    images: Images,
    mechanism: MeanEmbedding,
    device: torch.device,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The sums without noise, private: one pass over the images.

    Raises:
        InputError: features are not finite.
    """
    normalize = Normalize().to(device)
    sums = {name: total.to(device) for name, total in mechanism.zero().items()}
    at_a_time = max(1, min(rows_at_a_time(device), NUMBERS_AT_A_TIME // mechanism.num_features))
    done = 0
    features_of = by_row(
        lambda some: encoder(normalize(some)), images.blocks, images.shape, device, at_a_time
    )
    for features in features_of:
        some = slice(done, done + len(features))
        labels = None if mechanism.num_classes is None or images.labels is None else images.labels[some]
        mechanism.add(sums, features, labels)
        done += len(features)
        if progress:
            progress("reading images", done, len(images))
    return sums


def release(
    encoder: Encoder,
    images: Images,
    config: DPMEPFConfig,
    plan: TrainingPlan,
    account: Account,
    random: RandomSource,
    device: torch.device,
    progress: Progress | None = None,
) -> Embedding:
    """The one release of a run.

    Raises:
        InputError: as :func:`embedding_sums`, or the release was paid for by a process that ended before it
            could keep what was released.
    """
    (stage,) = plan.stages
    if account.left(stage.mechanism.event) == 0:
        raise InputError(
            "the one release of this run was paid for but lost with an interrupted process; start a new run, "
            "within what the budget leaves"
        )
    mechanism = config.mechanism(encoder.out_features, len(images.class_names))
    sums = embedding_sums(encoder, images, mechanism, device, progress)
    noisy = stage.mechanism.release(sums, account, random.at("noise", 0))
    facts = {
        "encoder": encoder.config,
        "image_shape": list(images.shape),
        "class_names": list(images.class_names) if config.labelled else [],
        "num_examples": plan.num_examples,
        "second_moment_weight": config.second_moment_weight,
        "count_weight": config.count_weight,
        "noise": stage.mechanism.standard_deviation,
    }
    return Embedding({name: total.cpu() for name, total in noisy.items()}, facts)


def fit(
    generator: Generator,
    encoder: Encoder,
    embedding: Embedding,
    config: DPMEPFConfig,
    random: RandomSource,
    *,
    checkpoints: Checkpoints | None = None,
    progress: Progress | None = None,
    on_step: Callable[[GeneratorFitting], None] | None = None,
) -> None:
    """Fit a `new_generator` in place, on the device where it and the encoder are; see `GeneratorFitting`."""
    fitting = GeneratorFitting(generator, encoder, embedding, config, random)
    state = checkpoints.load() if checkpoints else None
    if state is not None:
        fitting.load_state(state)
    while fitting.steps_done < config.steps:
        fitting.step()
        if checkpoints:
            checkpoints.save(fitting.state, final=fitting.steps_done == config.steps)
        if on_step:
            on_step(fitting)
        if progress:
            progress("fitting the generator", fitting.steps_done, config.steps)
    fitting.finish()


def default_config(
    image_shape: Sequence[int],
    device: torch.device | str,
    overrides: Mapping[str, Any],
) -> DPMEPFConfig:
    """A full configuration: ``overrides`` where given, the rest chosen by the images' shape.

    Raises:
        InputError: an override does not exist or is out of range.
    """
    channels, height, width = image_shape
    side = min(height, width)
    largest = LARGEST_SIDES[channels]
    options: dict[str, Any] = {"products": True}
    if side > largest or height != width:
        options["size"] = min(side, largest)
    on_gpu = torch.device(device).type == "cuda"
    config = DPMEPFConfig(
        encoder="pixels",
        steps=20_000 if on_gpu else 1_000,
        batch_size=400,
        network_width=WIDEST if on_gpu else NARROWEST,
        latent_size=32 if side <= 28 else 90,  # 90 beside ten classes is the paper's for 32 pixels
    )
    given = overrides.get("encoder_options", {})
    if "encoder" not in overrides:
        given = options | given  # another size does not turn products off
    return with_overrides(config, {**overrides, "encoder_options": given})
