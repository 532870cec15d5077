"""How much a run leaks, measured: canaries are trained on, and what comes out is asked about their coins."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, get_args

from dpvision.api.accounts import private_record
from dpvision.api.job import Job, prepare
from dpvision.api.sources import Source
from dpvision.api.synthesis import METHOD as SYNTHESIS
from dpvision.api.synthesis import ReleaseJob, prepare_release
from dpvision.evaluation.mislabelled import MislabelledImages
from dpvision.evaluation.progress import Progress
from dpvision.evaluation.worst_images import Contribution, WorstImages
from dpvision.images import Images
from dpvision.methods import TrainingPlan
from dpvision.methods.dp_mepf import embedding_sums, make_encoder, release
from dpvision.methods.dp_ridge import DPRidgeConfig, exact_sums
from dpvision.networks import Classifier
from dpvision.privacy import (
    Account,
    Budget,
    InputError,
    Ledger,
    NeighboringRelation,
    RandomSource,
    random_source,
)
from dpvision.privacy import epsilon as epsilon_of
from dpvision.privacy.audit import (
    Tally,
    all_correct,
    check_canaries,
    check_confidence,
    epsilon_lower_bound,
    f_dp_lower_bound,
    tally,
)
from dpvision.privacy.canaries import AuditedMechanism, Canaries
from dpvision.training import StepStatistics
from dpvision.views import Pool

CanaryKind = Literal["gradient", "images", "mislabelled"]

NOTICE = "private: it comes of training on the private images and is not covered by epsilon; do not publish"
CANARIES = 1000
MISLABELLED_SHARE = 0.1
STEPS_LOOKED_AT = 30
"""Of a run, about so many with worst-case images."""

Run = Callable[[Images, TrainingPlan, Account, RandomSource], Classifier | None]
"""Does all that is to be done with the images; the classifier that came of it, if one did."""


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        notice: that none of this may be published.
        method, canary_kind, canaries, confidence: what was audited, and how.
        neighboring_relation: between the two data sets that a canary's coin decides between.
        epsilon, delta: what the run claims under that relation.
        epsilon_lower_bound: on ε, by comparison with the run's own trade-off curves, see
            :func:`dpvision.privacy.audit.f_dp_lower_bound`.
        epsilon_lower_bound_any: on ε, whatever the algorithm may be, see
            :func:`dpvision.privacy.audit.epsilon_lower_bound`. Each of the two holds by itself with the
            confidence.
        largest_bound: what epsilon_lower_bound would be if all guesses were right: so many canaries cannot
            refute an ε above it.
        largest_contribution: what changed a sum before noise the most, of worst-case images, if these were
            added. A share of the sensitivity above 1 is no accident: the sums are exact.
        refuted: whether epsilon_lower_bound is above ε, or that share above 1: the run leaks more than it
            claims.
        releases: how many there were in the run.
        tallies: the guesses that were made.
    """

    notice: str
    method: str
    canary_kind: CanaryKind
    canaries: int
    confidence: float
    neighboring_relation: NeighboringRelation
    epsilon: float
    delta: float
    epsilon_lower_bound: float
    epsilon_lower_bound_any: float
    largest_bound: float
    refuted: bool
    releases: int
    tallies: tuple[Tally, ...]
    largest_contribution: Contribution | None = None


def audit(
    data: Source,
    *,
    epsilon: float,
    canaries: int | None = None,
    canary_kind: CanaryKind = "gradient",
    confidence: float = 0.95,
    delta: float | None = None,
    neighboring_relation: NeighboringRelation = "add_or_remove_one",
    method: str = "dp-sgd",
    config: Mapping[str, Any] | None = None,
    size: int | None = None,
    channels: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    num_examples: int | None = None,
    ledger: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Do what `dpvision.train` or `dpvision.synthesize` would, with canaries, and bound its ε from below.

    The run spends its budget and is in the ledger like any other. Nothing else is written, and the model is
    forgotten. What is found is private.

    Args:
        data, epsilon, delta, neighboring_relation, config, size, channels, seed, device, num_examples,
            ledger: as for `dpvision.train`.
        canaries: how many; by default 1000, of mislabelled ones at most a tenth of the images.
        canary_kind: "gradient", vectors as long as is allowed, in every release; "images", these, and beside
            them worst-case images through views, network and clip; or "mislabelled", images with one of two
            wrong labels, looked for in the trained classifier alone.
        confidence: with which each bound holds.
        method: one of `dpvision.train` or of `dpvision.synthesize`; of the latter only the release is
            audited, for the rest is made of it.
        progress: see `dpvision.evaluation.Progress`.

    Raises:
        InputError: an option or the data cannot be used, or the owner's limit does not allow the run. Nothing
            was spent.
        KeyboardInterrupt: passed on; what was spent is in the ledger.
    """
    if canary_kind not in get_args(CanaryKind):
        raise InputError(f"there are no canaries '{canary_kind}'; choose {' or '.join(get_args(CanaryKind))}")
    check_confidence(confidence)
    options: dict[str, Any] = {
        "epsilon": epsilon,
        "delta": delta,
        "neighboring_relation": neighboring_relation,
        "method": method,
        "config": config or {},
        "size": size,
        "channels": channels,
        "seed": seed,
        "device": device,
        "num_examples": num_examples,
    }
    job: Job | ReleaseJob
    if method == SYNTHESIS:
        if canary_kind == "mislabelled":
            raise InputError(f"mislabelled canaries are looked for in a classifier; {method} makes none")
        job = prepare_release(data, **options)
        worst = _worst_images(canary_kind, job.images, job.plan)
        run = _release(job, worst, progress)
    else:
        job = prepare(data, test=None, **options)
        worst = _worst_images(canary_kind, job.images, job.plan, **job.mixed_with)
        run = _training(job, worst, progress)
    images, plan, random = job.images, job.plan, random_source(seed)
    coins = random.at("canaries", 0)
    count = canaries if canaries is not None else _default_count(canary_kind, len(images))
    check_canaries(count)
    if canary_kind != "mislabelled":
        relation = neighboring_relation
        planted = Canaries(count, relation, coins)
        stages = (
            replace(stage, mechanism=AuditedMechanism.of(stage.mechanism, planted)) for stage in plan.stages
        )
        _spend(run, images, replace(plan, stages=tuple(stages)), job.budget, random, images, ledger)
        scores, included = planted.scores, planted.included
    else:
        relation = "replace_one"
        mislabelled = MislabelledImages.of(images, count, coins)
        model = _spend(run, mislabelled.images, plan, job.budget, random, images, ledger)
        assert model is not None
        scores, included = mislabelled.scores(model), mislabelled.included

    tallies = tally(scores.numpy(), included.numpy())
    events, delta = plan.events, job.budget.delta
    claimed = epsilon_of(events, delta, relation)
    bound, largest = (
        f_dp_lower_bound(count, guessed, events, delta, relation, confidence)
        for guessed in (tallies, all_correct(count))
    )
    largest_contribution = worst.largest if worst else None
    too_large = largest_contribution is not None and largest_contribution.share > 1
    return Audit(
        notice=NOTICE,
        method=method,
        canary_kind=canary_kind,
        canaries=count,
        confidence=confidence,
        neighboring_relation=relation,
        epsilon=claimed,
        delta=delta,
        epsilon_lower_bound=bound,
        epsilon_lower_bound_any=epsilon_lower_bound(count, tallies, delta, confidence),
        largest_bound=largest,
        refuted=bound > claimed or too_large,
        releases=sum(event.count for event in events),
        tallies=tallies,
        largest_contribution=largest_contribution,
    )


def _worst_images(
    canary_kind: CanaryKind, images: Images, plan: TrainingPlan, pool: Pool | None = None
) -> WorstImages | None:
    """Those that are to be added, if any, at steps all through the run."""
    if canary_kind != "images":
        return None
    releases = sum(event.count for event in plan.events)
    return WorstImages(images, pool, every=math.ceil(releases / STEPS_LOOKED_AT))


def _training(job: Job, worst: WorstImages | None, progress: Progress | None) -> Run:
    """What `dpvision.train` does between opening and closing the account."""
    model = job.make_model()
    one_release = isinstance(job.config, DPRidgeConfig)
    options: dict[str, Any] = dict(job.mixed_with)
    if worst and not one_release:
        options["on_batch"] = worst

    def run(images: Images, plan: TrainingPlan, account: Account, random: RandomSource) -> Classifier:
        planned = sum(event.count for event in account.planned)

        def on_step(statistics: StepStatistics) -> None:
            if progress:
                progress("training with canaries", sum(event.count for event in account.spent), planned)

        if worst and one_release:
            sensitivity = plan.stages[0].mechanism.sensitivity
            worst.look_at_release(images, partial(exact_sums, model), sensitivity)
        job.method.train(model, images, job.config, plan, account, random, **options, on_step=on_step)
        return model

    return run


def _release(job: ReleaseJob, worst: WorstImages | None, progress: Progress | None) -> Run:
    """What `dpvision.synthesize` does between opening and closing the account."""
    encoder = make_encoder(job.config, job.images).to(job.device)

    def run(images: Images, plan: TrainingPlan, account: Account, random: RandomSource) -> None:
        if worst:
            sums = job.config.mechanism(encoder.out_features, len(images.class_names))
            sensitivity = plan.stages[0].mechanism.sensitivity
            worst.look_at_release(
                images, lambda some: embedding_sums(encoder, some, sums, job.device), sensitivity
            )
        release(encoder, images, job.config, plan, account, random, job.device, progress)

    return run


def _spend(
    run: Run,
    images: Images,
    plan: TrainingPlan,
    budget: Budget,
    random: RandomSource,
    private: Images,
    ledger: str | os.PathLike[str] | None,
) -> Classifier | None:
    """Run on ``images``, which were made of the private ones, on an account in the ledger of these. What was
    not spent is free again, whatever happens.
    """
    record = private_record(private, ledger, datetime.now(UTC))
    book = Ledger.for_dataset(record["ledger"], record["digest"], len(private))
    account = Account(budget, book, record["run_id"], plan.events)
    try:
        account.open()
        return run(images, plan, account, random)
    finally:
        account.close()


def _default_count(canary_kind: CanaryKind, num_images: int) -> int:
    """Wrong labels must be few beside right ones; vectors disturb nobody."""
    return CANARIES if canary_kind != "mislabelled" else min(CANARIES, int(MISLABELLED_SHARE * num_images))
