"""DP-MEPF (Harder et al., arXiv 2205.12900): synthetic images from ONE noisy release of a mean embedding.

The private images are read once. Their features under a public encoder are summed by class
(:mod:`dpvision.privacy.mean_embedding`) and noise is added; then a generator is fitted to what was released.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dpvision.images import Images, ImageSet
from dpvision.methods.details import with_fitting_details
from dpvision.methods.embedding import EMBEDDING, Embedding
from dpvision.methods.estimates import PROBE_SECONDS, Estimate, seconds_per_drawing
from dpvision.methods.generator_fitting import FittingSettings, GeneratorFitting, new_generator
from dpvision.methods.method import (
    PREVIEWED_OF_A_CLASS,
    Finished,
    Learned,
    Makes,
    Workplace,
    is_previewed,
)
from dpvision.methods.releases import stated
from dpvision.methods.session import Session
from dpvision.methods.settings import setting_types, with_overrides
from dpvision.methods.stages import Stage
from dpvision.networks import Normalize
from dpvision.networks.by_row import by_row, rows_at_a_time
from dpvision.networks.generators import NARROWEST, WIDEST, check_image_shape
from dpvision.networks.weights import safetensors_bytes
from dpvision.priors import build_encoder
from dpvision.priors.encoders import Encoder, fit_once
from dpvision.priors.encoders.released import ENCODER, load_encoder, restored_encoder
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.mean_embedding import MeanEmbedding
from dpvision.privacy.noise import SeededRandom

LARGEST_SIDES = {1: 28, 3: 8}
"""Largest side, in pixels, of images for which the default encoder makes products, by channels (1 grey, 3
RGB). At 8 pixels more moments of CIFAR-10 are above the noise than at 16, and ResNet-9 learned more from what
was made of them.
"""

NUMBERS_AT_A_TIME = 1 << 24
"""The number of values of the features that are computed at once: 64 MiB, and a few times as much
on the way.
"""


@dataclass(frozen=True, kw_only=True)
class DPMEPFConfig(FittingSettings):
    """Everything public about a run but the data and the budget.

    Attributes:
        encoder: names the public encoder whose features are summed and released.
        encoder_options: are passed to the encoder, as :func:`dpvision.priors.build_encoder` lists them.
        labelled: whether classes are released too, and images drawn by class.
        second_moment_weight: c, the weight of the squared features in the release; 0 leaves them out.
        count_weight: b, the weight of the class counts in the release; the larger, the less noise on them.

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
        """Return the mechanism that releases the embedding."""
        return MeanEmbedding(
            num_features,
            num_classes if self.labelled else None,
            self.second_moment_weight,
            self.count_weight,
        )


class DPMEPF:
    """Fit a generator to noisy mean features, released once (Harder et al., arXiv 2205.12900)."""

    name = "dp-mepf"
    makes: Makes = "images"
    needs_labels = False
    config_class: type = DPMEPFConfig
    of_generator = tuple(setting_types(DPMEPFConfig))

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPMEPFConfig:
        """Choose by the images' shape. InputError where classes are to be released and there are no labels:
        that a class has no image is no error, for whether it has one is private.
        """
        check_image_shape(facts.image_shape)
        config = with_overrides(_by_shape(facts, device), _with_products(facts, overrides))
        if config.labelled and not facts.class_names:
            raise InputError("the images have no labels; give labelled images, or set labelled to false")
        size = config.encoder_options.get("size") if config.encoder == "pixels" else None
        if isinstance(size, int):  # what is none is refused where the encoder is built
            config = with_fitting_details(config, overrides, size, facts.image_shape)
        return config

    def stages(self, config: DPMEPFConfig, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """Return one stage, of one release. Its cost does not depend on the numbers of features and
        classes.
        """
        mechanism = config.mechanism(1, 1).mechanism(noise_multiplier, facts.num_examples)
        what = "class-wise sums of features and class counts" if config.labelled else "the sum of features"
        return (Stage(what, mechanism, 1),)

    def estimate(self, config: DPMEPFConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        encoder = build_encoder(config.encoder, facts.image_shape, fit=False, **config.encoder_options)
        encoder = encoder.to(device)
        mechanism = config.mechanism(encoder.out_features, len(facts.class_names))
        count = rows_at_a_time(device)
        pixels = torch.randint(256, (count, *facts.image_shape), dtype=torch.uint8)
        labels = torch.arange(count) % len(facts.class_names) if facts.class_names else None
        images = Images(pixels, labels, facts.class_names, "random images")
        sums = embedding_sums(encoder, images, mechanism, device)  # the first takes longer
        started = perf_counter()
        sums = embedding_sums(encoder, images, mechanism, device)
        seconds = (facts.num_examples + encoder.images_to_fit) * (perf_counter() - started) / count
        some = Embedding(
            {name: torch.randn(total.shape) for name, total in sums.items()},
            _facts(config, facts, encoder, noise=1.0),
        )
        fitting = _new_fitting(config, some, encoder, Workplace(device))
        if config.steps:
            fitting.step()  # the first takes longer
            started = perf_counter()
            while (passed := perf_counter() - started) < PROBE_SECONDS:
                fitting.step()
            seconds += config.steps * passed / (fitting.steps_done - 1)
        per_image = seconds_per_drawing(fitting.generator.eval())
        return Estimate(seconds, facts.num_examples * math.prod(facts.image_shape), per_image)

    def learn(self, config: DPMEPFConfig, session: Session) -> Learned:
        """Release the embedding."""
        facts = session.facts
        encoder = build_encoder(config.encoder, facts.image_shape, fit=False, **config.encoder_options)
        session.refuse_own(encoder)
        fit_once(encoder.to(session.device), partial(session.tell, "looking at random processes"))
        session.agree(encoder)
        sums = self.released_sums(config, session, encoder)
        noise = session.stages.stages[0].deviation
        return learned_of(sums, _facts(config, facts, encoder, noise), encoder)

    def released_sums(self, config: DPMEPFConfig, session: Session, encoder: Encoder) -> dict[str, Tensor]:
        """Release the sums of an encoder's features, which is on the session's device."""
        mechanism = config.mechanism(encoder.out_features, len(session.facts.class_names))
        tell = partial(session.tell, "reading images")

        def sums_of(images: ImageSet) -> dict[str, Tensor]:
            return embedding_sums(encoder, images, mechanism, session.device, tell)

        return session.release(0, sums_of, mechanism.zero())

    def finish(
        self, config: DPMEPFConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Fit a generator to the embedding."""
        embedding, encoder = opened(learned)
        fitting = _new_fitting(config, embedding, encoder, workplace)
        fit(fitting, workplace)
        mechanism = embedding.mechanism
        card = {
            "embedding": {
                "features": mechanism.num_features,
                "numbers": sum(total.numel() for total in embedding.sums.values()),
                "second_moment_weight": mechanism.second_moment_weight,
                "count_weight": mechanism.count_weight,
                "noise_standard_deviation": embedding.facts["noise"],
                "encoder": embedding.facts["encoder"],
            },
            "generator": {"objective": config.objective, "steps": fitting.steps_done},
        }
        files = {EMBEDDING: embedding.to_bytes(), ENCODER: safetensors_bytes(encoder.state_dict())}
        return Finished(fitting.generator, files, card)

    def open_release(self, path: Path) -> Learned:
        """Read an embedding, and the encoder stored beside it whose features these are."""
        embedding = Embedding.load(path)
        shape, num_features = embedding.facts["image_shape"], embedding.mechanism.num_features
        encoder = load_encoder(embedding.facts["encoder"], path.with_name(ENCODER), shape, num_features)
        return learned_of(embedding.sums, embedding.facts, encoder)

    def settings_of_release(self, learned: Learned) -> dict[str, Any]:
        """Return the settings that are part of what was released."""
        encoder = learned.facts["encoder"]
        return {
            "encoder": encoder["name"],
            "encoder_options": {n: v for n, v in encoder.items() if n not in ("name", "image_shape")},
            "labelled": bool(learned.facts["class_names"]),
            "second_moment_weight": learned.facts["second_moment_weight"],
            "count_weight": learned.facts["count_weight"],
        }

    def learn_again(self, config: DPMEPFConfig, earlier: Learned, session: Session) -> Learned:
        """Release the sums of the same features once more."""
        embedding, encoder = opened(earlier)
        session.refuse_own(encoder.to(session.device))
        session.agree(encoder)
        sums = self.released_sums(config, session, encoder)
        about = {**embedding.facts, "noise": session.stages.stages[0].deviation}
        both = embedding.combined(Embedding(sums, about))
        return learned_of(both.sums, both.facts, encoder)


@torch.no_grad()
def embedding_sums(
    encoder: Encoder,
    images: ImageSet,
    mechanism: MeanEmbedding,
    device: torch.device,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Compute the sums without noise, private: one pass over the images. ``tell`` is given how many are done,
    and how many there are.

    Raises:
        InputError: features are not finite.
    """
    normalize = Normalize().to(device)
    sums = {name: total.to(device) for name, total in mechanism.zero().items()}
    at_a_time = max(1, min(rows_at_a_time(device), NUMBERS_AT_A_TIME // mechanism.num_features))
    done, shares = 0, None if images.units is None else images.units.shares
    features_of = by_row(
        lambda some: encoder(normalize(some)),
        images.blocks,
        images.shape,
        device,
        at_a_time,
        concurrent=encoder.concurrent,
    )
    for features in features_of:
        some = slice(done, done + len(features))
        labels = None if mechanism.num_classes is None or images.labels is None else images.labels[some]
        mechanism.add(sums, features, labels, None if shares is None else shares[some])
        done += len(features)
        if tell:
            tell(done, len(images))
    return sums


def learned_of(sums: Mapping[str, Tensor], facts: Mapping[str, Any], encoder: Encoder) -> Learned:
    """Return what was released, with the encoder whose features these are: enough for any number of fits."""
    parts = {"sums": sums, "encoder": encoder.state_dict()}
    tensors = {f"{part}.{name}": t.detach().cpu() for part, some in parts.items() for name, t in some.items()}
    return Learned(tensors, facts)


def opened(learned: Learned) -> tuple[Embedding, Encoder]:
    """Return the embedding and the encoder that `learned_of` took, on the CPU."""
    parts: dict[str, dict[str, Tensor]] = {"sums": {}, "encoder": {}}
    for key, tensor in learned.tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = tensor
    return Embedding(parts["sums"], learned.facts), restored_encoder(
        learned.facts["encoder"], parts["encoder"]
    )


def _facts(config: DPMEPFConfig, facts: PublicFacts, encoder: Encoder, noise: float) -> dict[str, Any]:
    """Return the public facts of an embedding; see :class:`Embedding`."""
    return {
        **stated(DPMEPF.name, facts, config.labelled),
        "encoder": encoder.config,
        "second_moment_weight": config.second_moment_weight,
        "count_weight": config.count_weight,
        "noise": noise,
    }


def _new_fitting(
    config: DPMEPFConfig, embedding: Embedding, encoder: Encoder, workplace: Workplace
) -> GeneratorFitting:
    """Return a new generator to be fitted, all on the workplace's device."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(workplace.seed)
        generator = new_generator(embedding, encoder, config).to(workplace.device)
    random = SeededRandom(workplace.seed).at("fit", 0)
    return GeneratorFitting(generator, encoder.to(workplace.device), embedding, config, random)


def fit(fitting: GeneratorFitting, workplace: Workplace) -> None:
    """Take steps until it is done, from the checkpoint on if there is one."""
    checkpoints, steps = workplace.checkpoints, fitting.settings.steps
    state = checkpoints.load() if checkpoints else None
    if state is not None:
        fitting.load_state(state)
    while not fitting.is_done:
        fitting.step()
        if checkpoints:
            checkpoints.save(fitting.state, final=fitting.is_done)
        if workplace.preview and is_previewed(fitting.steps_done, steps):
            workplace.preview(fitting.preview(PREVIEWED_OF_A_CLASS), fitting.steps_done)
        if workplace.progress:
            workplace.progress("fitting the generator", fitting.steps_done, steps)
    fitting.finish()


def _by_shape(facts: PublicFacts, device: torch.device) -> DPMEPFConfig:
    """Choose settings that suit images of this shape."""
    on_gpu, side = device.type == "cuda", min(facts.image_shape[1:])
    return DPMEPFConfig(
        encoder="pixels",
        steps=20_000 if on_gpu else 1_000,
        batch_size=400,
        network_width=WIDEST if on_gpu else NARROWEST,
        latent_size=32 if side <= 28 else 90,  # 90 beside ten classes is the paper's for 32 pixels
    )


def _with_products(facts: PublicFacts, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``overrides``, with the default encoder's options where no encoder is named."""
    if "encoder" in overrides or not isinstance(overrides.get("encoder_options", {}), Mapping):
        return dict(overrides)
    channels, height, width = facts.image_shape
    side, largest = min(height, width), LARGEST_SIDES[channels]
    options: dict[str, Any] = {"products": True}
    if side > largest or height != width:
        options["size"] = min(side, largest)
    # Another size does not turn products off.
    return {**overrides, "encoder_options": options | overrides.get("encoder_options", {})}
