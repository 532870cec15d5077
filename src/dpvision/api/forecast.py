"""What a run would do and take, before anything is spent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpvision.api.job import prepare
from dpvision.api.sources import Source
from dpvision.privacy import Ledger, NeighboringRelation, default_ledger_path
from dpvision.runs import check_free


@dataclass(frozen=True)
class StageForecast:
    """``count`` noisy releases of what ``releases`` names, each over a Poisson batch of this sample rate."""

    releases: str
    sample_rate: float
    count: int


@dataclass(frozen=True)
class Forecast:
    """A run as `dpvision.train` would make it.

    Attributes:
        epsilon, delta, neighboring_relation: what it would spend.
        noise_multiplier, stages: how.
        num_examples: N, as it was declared.
        image_shape, num_classes: of the data, (C, H, W) for the shape.
        test_examples: how many images the accuracy would be measured on.
        seconds, memory_bytes: expected, of training.
        epsilon_remaining: what the owner's limit leaves at present; None without a limit.
        config: all settings, those of the method.
    """

    epsilon: float
    delta: float
    neighboring_relation: NeighboringRelation
    noise_multiplier: float
    stages: tuple[StageForecast, ...]
    num_examples: int
    image_shape: tuple[int, int, int]
    num_classes: int
    test_examples: int
    seconds: float
    memory_bytes: int
    epsilon_remaining: float | None
    config: Any


def plan(
    data: Source,
    *,
    epsilon: float,
    out: str | os.PathLike[str] | None = None,
    delta: float | None = None,
    neighboring_relation: NeighboringRelation = "add_or_remove_one",
    test: Source | None = None,
    method: str = "dp-sgd",
    config: Mapping[str, Any] | None = None,
    size: int | None = None,
    channels: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    num_examples: int | None = None,
    ledger: str | os.PathLike[str] | None = None,
) -> Forecast:
    """What `dpvision.train` with the same options would do. Spends nothing and writes nothing.

    Raises:
        InputError: as `dpvision.train`, but for the owner's limit, which is only reported.
    """
    if out is not None:
        check_free(out)
    job = prepare(
        data,
        epsilon=epsilon,
        delta=delta,
        neighboring_relation=neighboring_relation,
        test=test,
        method=method,
        config=config or {},
        size=size,
        channels=channels,
        seed=seed,
        device=device,
        num_examples=num_examples,
    )
    images = job.images
    expected = job.method.estimate(job.config, images.shape, images.class_names, job.num_examples, job.device)
    ledger_path = Path(ledger or default_ledger_path(images.digest))
    return Forecast(
        epsilon=job.plan.epsilon,
        delta=job.budget.delta,
        neighboring_relation=job.budget.neighboring_relation,
        noise_multiplier=job.plan.noise_multiplier,
        stages=tuple(
            StageForecast(stage.releases, stage.event.sample_rate, stage.count) for stage in job.plan.stages
        ),
        num_examples=job.num_examples,
        image_shape=images.shape,
        num_classes=len(images.class_names),
        test_examples=len(job.test) if job.test else 0,
        seconds=expected.seconds,
        memory_bytes=expected.memory_bytes,
        epsilon_remaining=Ledger(ledger_path).summary()["epsilon_remaining"]
        if ledger_path.exists()
        else None,
        config=job.config,
    )
