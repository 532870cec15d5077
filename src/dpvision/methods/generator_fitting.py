"""Fit a generator to a released mean embedding: post-processing, free of privacy cost however often.

Nothing here reads private images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dpvision.methods.discrepancy import Discrepancy
from dpvision.methods.embedding import Embedding
from dpvision.methods.settings import check
from dpvision.networks import Normalize
from dpvision.networks.generators import NARROWEST, WIDEST, Generator
from dpvision.networks.precision import Precision, resolve_precision
from dpvision.priors.encoders import Encoder
from dpvision.priors.encoders.process_images import cut, side_of
from dpvision.priors.processes import generate
from dpvision.privacy.errors import InputError, reason_of
from dpvision.privacy.noise import RandomSource
from dpvision.privacy.values import check_rate
from dpvision.training import (
    ExponentialMovingAverage,
    Schedule,
    check_tensors,
    load_optimizer_state,
    optimizer_state,
    schedule_factor,
    whole_number,
)

Objective = Literal["squared", "moving_average"]

BATCHES_OF_STATISTICS = 50
"""The number of batches over which the released generator's BatchNorm takes its statistics."""

PIXELS_AT_A_TIME = 2**20
"""Of public images that are made at once. No more are kept for the next run of this process: 12 MiB."""


@dataclass(frozen=True, kw_only=True)
class FittingSettings:
    """Settings that say how a generator is fitted.

    Attributes:
        objective: is what the generator minimises: "squared", the squared distance between the released mean
            embedding and that of a batch; or "moving_average" of Harder et al. (arXiv 2205.12900, section 3):
            a vector v follows the difference of the two, and the generator minimises its scalar product with
            v.
        steps: at most how many steps of Adam, with β = (0.5, 0.999), fit the generator; they cost no budget.
        stop_at_noise: ends the fit of a generator with a start in closed form (gaussian_start) as soon as its
            mean embedding is as near to the released one as noise lets the true one be
            (:class:`~dpvision.methods.discrepancy.Discrepancy`). What stands out of the noise is in the start
            then; a generator without one could end before it has found it.
        batch_size: how many images a step draws, as many of each class, and at least two.
        learning_rate: scales the steps of Adam that fit the generator.
        learning_rate_of_average: scales the steps of Adam for v, with "moving_average" alone.
        schedule: lowers the learning rate: "linear" or "cosine" to 0 at the end, "constant" never.
        ema_decay: is the share of the generator's averaged weights that a step keeps; these are released.
        gaussian_start: whether the generator starts from images of the released moments, where these are
            products of pixels; see :class:`~dpvision.networks.gaussian_images.GaussianImages`.
        start_weight: holds images to that start: it weights their mean squared difference from it, summed
            over pixels, in units of the noise's expected squared norm, so that the start is left where the
            moments are known well enough.
        num_details: how many public images, made by a random process, give the start its details, where the
            released pixels are of smaller images; by default none do where images are less than one and a
            half times as large.
        latent_size: how many normal numbers the generator makes an image of, beside the class.
        network_width: how many channels the first layers have of the generator for sides other than 28.
        published_network: whether the generator's network is that of the paper's code in all it does, down to
            its initial weights.
        precision: sets the arithmetic of generator and encoder: "float32", "bfloat16", or "auto", which takes
            bfloat16 where the hardware multiplies its matrices.

    Raises:
        InputError: a value is out of range.
    """

    objective: Objective = "squared"
    steps: int
    stop_at_noise: bool = True
    batch_size: int
    learning_rate: float = 1e-3
    learning_rate_of_average: float = 1e-3
    schedule: Schedule = "linear"
    ema_decay: float = 0.99
    gaussian_start: bool = True
    start_weight: float = 0.004
    num_details: int = 1000
    latent_size: int
    network_width: int = WIDEST
    published_network: bool = False
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check(self.objective in get_args(Objective), "objective", "squared or moving_average", self.objective)
        check(self.steps >= 0, "steps", "at least 0", self.steps)
        check(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        check(self.latent_size >= 2, "latent_size", "at least 2", self.latent_size)
        check(0 <= self.num_details <= 10_000, "num_details", "between 0 and 10,000", self.num_details)
        check(0 <= self.start_weight <= 1000, "start_weight", "between 0 and 1000", self.start_weight)
        for name in ("learning_rate", "learning_rate_of_average"):
            check_rate(getattr(self, name), name)
        widths = range(NARROWEST, WIDEST + 1, NARROWEST)
        check(self.network_width in widths, "network_width", "128, 256, 384 or 512", self.network_width)
        check(0 <= self.ema_decay < 1, "ema_decay", "at least 0 and below 1", self.ema_decay)
        schedule_factor(self.schedule, 0, 1)
        resolve_precision(self.precision, "cpu")


def targets(embedding: Embedding, encoder: Encoder, device: torch.device | str) -> dict[str, Tensor]:
    """Return the released means "first" and "second", ``[K, D]`` each, on the encoder's device: what a
    generator is fitted to. The noise of the first is what the encoder knows to make of it
    (:meth:`Encoder.shrunk`).
    """
    means = {name: mean.to(device) for name, mean in embedding.means.items()}
    noise = embedding.facts["noise"] / embedding.class_sizes.to(device)
    return means | {"first": encoder.shrunk(means["first"], noise)}


def new_generator(embedding: Embedding, encoder: Encoder, settings: FittingSettings) -> Generator:
    """Return a generator for what was released, that starts from what its features say in closed form, if
    anything (:meth:`Encoder.gaussian_images`). All on the CPU, with new weights from torch's generator.
    """
    shape = embedding.facts["image_shape"]
    start = None
    if settings.gaussian_start:
        # The last of the noise chooses details, and does nothing else in the start.
        rank = settings.latent_size - 1
        start = encoder.gaussian_images(targets(embedding, encoder, "cpu")["first"], rank)
    if start is not None and start.size != start.small_shape[1:] and settings.num_details:
        start.set_details(public_leaves(settings.num_details, shape))
    generator = Generator(
        shape,
        embedding.class_names,
        settings.latent_size,
        settings.network_width,
        settings.published_network,
        start,
    )
    sizes = embedding.class_sizes
    generator.class_proportions.copy_(sizes / sizes.sum())
    return generator


def public_leaves(count: int, image_shape: Sequence[int]) -> Tensor:
    """Generate public images, always the same: ``[count, C, H, W]`` in [0, 1], shapes over each other."""
    side = side_of(image_shape)
    make = _kept_leaves if count * side**2 <= PIXELS_AT_A_TIME else leaves
    return cut(make(count, side), image_shape).clone()


def leaves(count: int, side: int) -> Tensor:
    """Generate squares of shapes over each other, always the same: ``[count, 3, side, side]`` in [0, 1]."""
    random, at_a_time = torch.Generator().manual_seed(0), max(1, PIXELS_AT_A_TIME // side**2)
    parts = torch.arange(count).split(at_a_time)
    return torch.cat([generate("dead-leaves-mixed", len(part), side, random) for part in parts])


_kept_leaves = lru_cache(maxsize=2)(leaves)


class GeneratorFitting:
    """Fits ``generator``, step by step.

    Args:
        generator: its weights are what is learned.
        encoder: the encoder of the embedding, on the same device.
        embedding: what was released.
        settings: how the generator is fitted.
        random: the source of the generator's noise. Nothing private depends on it.

    Attributes:
        steps_done: the number of the settings' steps that were taken.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        embedding: Embedding,
        settings: FittingSettings,
        random: RandomSource,
    ) -> None:
        self.generator, self.encoder = generator.train(), encoder
        self.settings, self.random = settings, random
        self.device = generator.class_proportions.device
        self.normalize = Normalize().to(self.device)
        self.mechanism = embedding.mechanism
        # The noise on a class's mean goes with one over its size: larger classes are known better.
        sizes = embedding.class_sizes.to(self.device)
        self.targets = targets(embedding, encoder, self.device)
        self.weights = (sizes / sizes.mean()).square()[:, None]  # [K, 1]
        features = self.targets["first"].shape[1]
        noise = embedding.facts["noise"] / sizes
        self.pull = settings.start_weight * features * float((self.weights[:, 0] * noise.square()).sum())
        removed = embedding.means["first"].to(self.device) - self.targets["first"]
        self.discrepancy = Discrepancy(removed, noise, self.weights[:, 0])
        self.blocks = len(sizes)
        self.per_class = max(2, settings.batch_size // self.blocks)  # BatchNorm needs two
        self.labels = torch.arange(self.blocks, device=self.device).repeat_interleave(self.per_class)
        self.dtype = resolve_precision(settings.precision, self.device)
        self.optimizer = torch.optim.Adam(generator.parameters(), betas=(0.5, 0.999))
        self.average = ExponentialMovingAverage(generator, settings.ema_decay)
        self.followers = nn.ParameterDict()
        if settings.objective == "moving_average":
            self.followers.update({name: torch.zeros_like(target) for name, target in self.targets.items()})
            self.follower_optimizer = torch.optim.Adam(self.followers.parameters(), betas=(0.5, 0.999))
        self.steps_done = 0

    @property
    def is_done(self) -> bool:
        """Whether all steps were taken, or the settings say that no more are worth it."""
        may_stop = self.settings.stop_at_noise and self.generator.start is not None
        if may_stop and self.discrepancy.is_noise(self.steps_done):
            return True
        return self.steps_done == self.settings.steps

    def step(self) -> None:
        """Take one step of Adam."""
        settings = self.settings
        factor = schedule_factor(settings.schedule, self.steps_done, settings.steps)
        noise = self._noise("latent", self.steps_done, len(self.labels))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            images, start = self.generator.with_start(self.labels, noise)
        loss = self._objective(images, settings.learning_rate_of_average * factor)
        if start is not None:
            loss = loss + self.pull * (images - start).square().sum() / len(images)
        _step(self.optimizer, loss, settings.learning_rate * factor)
        self.average.update(self.generator, self.steps_done)
        self.steps_done += 1

    @torch.no_grad()
    def preview(self, per_class: int) -> Tensor:
        """Draw images, always from the same noise: uint8 ``[K·per_class, C, H, W]``, by class."""
        labels = torch.arange(self.blocks, device=self.device).repeat_interleave(per_class)
        noise = self._noise("preview", 0, len(labels))
        return self.generator(labels, noise).mul(255).round().to("cpu", torch.uint8)

    def finish(self) -> None:
        """Give the generator its average weights, and its BatchNorm the statistics of these."""
        self.average.copy_to(self.generator)
        norms = [m for m in self.generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches from here
        self.generator.train()
        with torch.no_grad():
            for batch in range(BATCHES_OF_STATISTICS):
                self.generator(self.labels, self._noise("statistics", batch, len(self.labels)))
        self.generator.eval()

    def _objective(self, images: Tensor, learning_rate_of_average: float) -> Tensor:
        """Compute the objective, to be minimised, for a batch of images ``[B, C, H, W]``."""
        differences = self._differences(images)
        self.discrepancy.update(self.steps_done, differences["first"])
        if self.settings.objective == "squared":
            return self._inner(differences, differences)
        self._follow(differences, learning_rate_of_average)
        return self._inner({name: v.detach() for name, v in self.followers.items()}, differences)

    def _differences(self, images: Tensor) -> dict[str, Tensor]:
        """Return "first" and "second": the released mean embedding less that of a batch, ``[K, D]``."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            images = self.normalize(images)
            if "second" in self.targets:
                embedded = self.mechanism.embed(self.encoder(images).float())
                means = {n: e.unflatten(0, (self.blocks, -1)).mean(dim=1) for n, e in embedded.items()}
            else:
                means = {"first": self.encoder.mean_directions(images, self.blocks).float()}
        return {name: target - means[name] for name, target in self.targets.items()}

    def _inner(self, one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
        """Compute the scalar product over all classes, as each weighs."""
        products = [(self.weights * one[name] * other[name]).sum() for name in self.targets]
        return torch.stack(products).sum()

    def _follow(self, differences: Mapping[str, Tensor], learning_rate: float) -> None:
        gaps = {name: v - differences[name].detach() for name, v in self.followers.items()}
        _step(self.follower_optimizer, self._inner(gaps, gaps), learning_rate)

    def _noise(self, purpose: str, step: int, count: int) -> Tensor:
        """Draw normal noise ``[count, latent_size]``."""
        return self.random.at(purpose, step).normal((count, self.settings.latent_size)).to(self.device)

    def state(self) -> dict[str, Tensor]:
        """Return all that a later process needs to go on."""
        parts = {
            "generator": self.generator.state_dict(),
            "average": self.average.weights,
            "optimizer": optimizer_state(self.optimizer),
        }
        if self.followers:
            parts["followers"] = self.followers.state_dict()
            parts["follower_optimizer"] = optimizer_state(self.follower_optimizer)
        flat = {f"{part}.{name}": t for part, tensors in parts.items() for name, t in tensors.items()}
        of_steps = {"discrepancy": self.discrepancy.averages, "steps_done": torch.tensor(self.steps_done)}
        return flat | of_steps

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up where :meth:`state` was taken.

        Raises:
            InputError: it is of another generator, embedding or number of steps, or not finite.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            part, _, name = key.partition(".")
            parts.setdefault(part, {})[name] = tensor
        try:
            check_tensors(parts["generator"], self.generator.state_dict())
            check_tensors(parts["average"], self.average.weights)
            self.generator.load_state_dict(parts["generator"])
            self.average.load(parts["average"])
            load_optimizer_state(self.optimizer, parts.get("optimizer", {}))
            if self.followers:
                check_tensors(parts["followers"], self.followers.state_dict())
                self.followers.load_state_dict(parts["followers"])
                load_optimizer_state(self.follower_optimizer, parts.get("follower_optimizer", {}))
            discrepancy = {"discrepancy": self.discrepancy.averages}
            check_tensors({"discrepancy": state["discrepancy"]}, discrepancy)
            self.discrepancy.averages.copy_(state["discrepancy"])
            self.steps_done = whole_number(state, "steps_done", self.settings.steps)
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"checkpoint: it is of another generator or embedding, or damaged ({reason_of(error)})"
            ) from error


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
