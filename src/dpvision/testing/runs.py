"""Runs to check: of dpvision's methods as users call them, and of your own network, policy or encoder."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from dpvision.api import synthesize, train
from dpvision.evaluation.worst_images import Contribution, WorstImages
from dpvision.gradients import ClippedGradient
from dpvision.images import ImageSet
from dpvision.methods import Session, at_noise, find_method
from dpvision.methods.dp_mepf import DPMEPF, DPMEPFConfig
from dpvision.methods.gradient_descent import cross_entropy
from dpvision.priors.encoders import Encoder
from dpvision.privacy import (
    Account,
    Budget,
    FullBatch,
    GaussianSumMechanism,
    NeighboringRelation,
    PoissonSampler,
    PublicFacts,
    SeededRandom,
)
from dpvision.privacy.sampling import Sampler
from dpvision.testing.guarantee import Run
from dpvision.training import Phase, PrivateTrainer
from dpvision.views import SelfAugmentation, ViewPolicy

AS_IT_IS = SelfAugmentation(augmult=1, pad=0, flip=False)
"""One view of an image, which is the image."""

ENOUGH = Budget(1e6, 1e-5)
"""A budget for runs that are not calibrated."""


def method_run(
    method: str,
    *,
    num_examples: int,
    epsilon: float = 2.0,
    delta: float = 1e-5,
    neighboring_relation: NeighboringRelation = "add_or_remove_one",
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    **options: Any,
) -> Run:
    """Return a run of `dpvision.train`, or of `dpvision.synthesize`, by what the method makes.

    Args:
        method: its name.
        num_examples: N, as it is declared, the same for all neighbours.
        epsilon, delta, neighboring_relation, config, seed, device, options: as for those functions. In low
            precision, and on a GPU, the rounding of one example's gradient may depend on the others in its
            batch, and be told as a difference: set precision to float32.
    """
    learn: Any = train if find_method(method).makes == "a classifier" else synthesize

    def run(images: ImageSet, folder: Path) -> Path:
        result = learn(
            images,
            method=method,
            num_examples=num_examples,
            epsilon=epsilon,
            delta=delta,
            neighboring_relation=neighboring_relation,
            config=config,
            seed=seed,
            device=device,
            out=folder / "run",
            ledger=folder / "ledger.jsonl",
            **options,
        )
        return result.release

    return run


def training_run(
    network: nn.Module,
    *,
    num_examples: int,
    policy: ViewPolicy | None = None,
    max_grad_norm: float = 1.0,
    noise_multiplier: float = 1.0,
    sample_rate: float = 0.25,
    steps: int = 8,
    learning_rate: float = 0.5,
    seed: int = 0,
) -> Run:
    """Return a run of DP-SGD by :class:`dpvision.training.PrivateTrainer` on the cross-entropy of a network.

    Args:
        network: maps float ``[N, C, H, W]`` to logits. Every run begins with a copy of it.
        num_examples: N, as it is declared, the same for all neighbours.
        policy: the views of an example; by default the image itself.
        max_grad_norm, noise_multiplier, sample_rate, steps, learning_rate: those of plain SGD.
        seed: the seed of batches, views and noise.

    """
    sampler = PoissonSampler(num_examples, sample_rate)

    def run(images: ImageSet, folder: Path) -> Path:
        trainer = _trainer(
            network, images, sampler, policy, max_grad_norm, noise_multiplier, steps, learning_rate, seed
        )
        model = trainer.model
        account = Account(ENOUGH, None, "check", [sampler.event(noise_multiplier, steps)])
        account.open()
        for _ in range(steps):
            trainer.step(account)
        trainer.average.copy_to(model)
        return _published(folder, model.state_dict())

    return run


def largest_contribution(
    network: nn.Module,
    images: ImageSet,
    *,
    policy: ViewPolicy | None = None,
    max_grad_norm: float = 1.0,
    steps: int = 1,
    seed: int = 0,
) -> Contribution:
    """Add worst-case images to a batch, one at a time, and see what changes its clipped sum the most.

    A share above 1 breaks the guarantee: the sums are exact. See `dpvision.evaluation.worst_images`.

    Args:
        network: maps float ``[N, C, H, W]`` to logits. It is not changed.
        images: the batch.
        policy: the views of an example; by default the image itself.
        max_grad_norm: the clipping norm.
        steps: how often, each time with other views, labels and places, and the same weights.
        seed: the seed of the views.
    """
    worst = WorstImages(images, getattr(policy, "pool", None))
    trainer = _trainer(network, images, FullBatch(images.num_protected), policy, max_grad_norm, seed=seed)
    for step in range(steps):
        worst(trainer, trainer.batch(torch.arange(images.num_protected)), trainer.keys(step))
    assert worst.largest is not None
    return worst.largest


def embedding_run(
    encoder: Encoder,
    *,
    num_examples: int,
    second_moment_weight: float = 1.0,
    noise_multiplier: float = 1.0,
    seed: int = 0,
) -> Run:
    """Return the release of DP-MEPF with an encoder of yours.

    Args:
        encoder: public, frozen.
        num_examples: N, as it is declared, the same for all neighbours.
        second_moment_weight, noise_multiplier: those of the release.
        seed: the seed of the noise.
    """
    method, budget = DPMEPF(), ENOUGH
    config = DPMEPFConfig(
        encoder="yours", steps=0, batch_size=1, latent_size=2, second_moment_weight=second_moment_weight
    )

    def run(images: ImageSet, folder: Path) -> Path:
        # Where the encoder is.
        device = next((tensor.device for tensor in encoder.state_dict().values()), torch.device("cpu"))
        facts = PublicFacts(num_examples, images.shape, images.class_names)
        stages = at_noise(noise_multiplier, partial(method.stages, config, facts), budget)
        account = Account(budget, None, "check", stages.events)
        account.open()
        session = Session(images, facts, stages, lambda: account, SeededRandom(seed), device)
        return _published(folder, method.released_sums(config, session, encoder))

    return run


def _trainer(
    network: nn.Module,
    images: ImageSet,
    sampler: Sampler,
    policy: ViewPolicy | None,
    max_grad_norm: float,
    noise_multiplier: float = 1.0,
    steps: int = 1,
    learning_rate: float = 1.0,
    seed: int = 0,
) -> PrivateTrainer:
    """Return a trainer of a copy of the network."""
    model = deepcopy(network)
    assert images.labels is not None, "training takes labels"
    return PrivateTrainer(
        model,
        images,
        images.labels,
        policy=policy or AS_IT_IS,
        engine=ClippedGradient(
            model,
            cross_entropy,
            max_grad_norm,
            precision="float32",
            expected_batch_size=sampler.expected_batch_size,
        ),
        mechanism=GaussianSumMechanism(noise_multiplier, max_grad_norm, sampler.over(images.num_protected)),
        phases=[Phase(steps, "sgd", learning_rate)],
        ema_decay=0.5,
        random=SeededRandom(seed),
        ids=images.ids,
        units=images.units,
        num_classes=len(images.class_names),
    )


def _published(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    published = folder / "release"
    published.mkdir()
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, published / "released.safetensors")
    return published
