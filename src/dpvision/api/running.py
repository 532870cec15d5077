"""Train a private classifier, and go on with a run that was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from dpvision.api.accounts import (
    check_unchanged,
    check_version,
    close_account,
    discard_unspent,
    make_account,
    private_record,
)
from dpvision.api.job import Job, prepare
from dpvision.api.sources import Source
from dpvision.api.synthesis import METHOD as SYNTHESIS
from dpvision.api.synthesis import Synthesis, resume_synthesis
from dpvision.api.using import load_classifier
from dpvision.evaluation import Accuracy, accuracy
from dpvision.evaluation.progress import Progress as WorkProgress
from dpvision.images import Images
from dpvision.images.files import reading
from dpvision.networks import Classifier
from dpvision.privacy import Account, NeighboringRelation
from dpvision.reports import card_markdown, release_card
from dpvision.runs import FileCheckpoints, Metrics, RunDirectory, check_free, classifier_files
from dpvision.runs.files import json_bytes, read_json
from dpvision.training import StepStatistics

Progress = Callable[[int, int, Account], None]
"""Called after every step: how many steps are paid for, how many there will be, and the run's account."""


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        epsilon, delta: what was spent.
        test_accuracy: on the test images, if there were any.
        release: the directory that may be published.
        model: the released classifier, ready for use.
    """

    epsilon: float
    delta: float
    test_accuracy: Accuracy | None
    release: Path
    model: Classifier


def train(
    data: Source,
    *,
    epsilon: float,
    out: str | os.PathLike[str],
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
    progress: Progress | None = None,
) -> Result:
    """Train a classifier that is (ε, δ)-differentially private in its training images, and release it.

    Args:
        data: the private images: a spec for `open_images`, or `Images`.
        epsilon: the budget's ε; never exceeded.
        out: the run's directory, made here. Publish RUN/release, keep RUN/private.
        delta: the budget's δ, below 1/N; by default the largest power of ten below 1/N.
        neighboring_relation: "add_or_remove_one" or "replace_one".
        test: images to measure the accuracy on; by default the test split of ``data`` if it has one.
        method: "dp-sgd", "dp-mix-self", "dp-mix-diff", "dp-randp" or "dp-ridge".
        config: settings that replace the defaults, see `dpvision.methods.dp_sgd.DPSGDConfig` and
            `dpvision.methods.dp_randp.DPRandPConfig`. The defaults suit the data's public facts and the
            machine.
        size, channels: as in `open_images`. By default images that differ in size, or are larger than 64
            pixels when no network and no library's encoder is named, are resized to 64 or 32.
        seed: makes the run reproducible and not private.
        device: such as "cpu" or "cuda"; by default a GPU where there is one.
        num_examples: N, which is public; by default as many images as there are. If another number is
            declared, say a rounded one, how many there are stays private under "add_or_remove_one".
        ledger: the data set's ledger; by default in the user's data directory, found by the data's digest.
        progress: see `Progress`.

    Raises:
        InputError: an option or the data cannot be used, or the owner's limit does not allow the run. Nothing
            was spent and nothing is left behind.
        KeyboardInterrupt: passed on; `resume` continues the run.
    """
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
    model = job.make_model()
    started = datetime.now(UTC)
    public = {
        "dpvision": version("dpvision"),
        "started": started.isoformat(timespec="seconds"),
        **job.to_json(),
    }
    run = RunDirectory.create(out, public, private_record(job.images, ledger, started))
    with run.locked():
        account = None
        try:
            account = _open_account(run, job)
            return _work(run, job, model, account, progress)
        except Exception:
            discard_unspent(run, account)
            raise


def resume(
    run: str | os.PathLike[str],
    *,
    data: Images | None = None,
    test: Images | None = None,
    progress: Progress | WorkProgress | None = None,
) -> Result | Synthesis:
    """Go on with a run that was interrupted. Of one that is complete, the result.

    Args:
        run: its directory.
        data, test: the images, if they were given in memory.
        progress: see `Progress`; of a run of `synthesize`, `dpvision.evaluation.Progress`.

    Raises:
        InputError: there is no such run, another process works on it, its data have changed, or its ledger
            does not have it as open.
        KeyboardInterrupt: passed on.
    """
    directory = RunDirectory.open(Path(run))
    with directory.locked():
        if directory.config.get("method") == SYNTHESIS:
            return resume_synthesis(directory, data, cast("WorkProgress | None", progress))
        if directory.is_released:
            close_account(directory)
            return _result(directory)
        check_version(directory)
        job = Job.from_json(directory.config, data, test)
        check_unchanged(directory, job.images)
        return _work(
            directory, job, job.make_model(), _open_account(directory, job), cast("Progress | None", progress)
        )


def makes_images(run: str | os.PathLike[str]) -> bool:
    """Whether a run is one of `synthesize`. InputError where there is no run."""
    return bool(RunDirectory.open(run).config.get("method") == SYNTHESIS)


def _open_account(run: RunDirectory, job: Job) -> Account:
    account = make_account(run, len(job.images), job.budget, job.plan)
    account.open()
    return account


def _work(
    run: RunDirectory, job: Job, model: Classifier, account: Account, progress: Progress | None
) -> Result:
    """Train to the end, release, close the account."""
    random = job.random()
    checkpoints = FileCheckpoints(run.checkpoint_path, run.seal, account)
    metrics = Metrics(run.private_path / "metrics.jsonl")
    planned = sum(event.count for event in account.planned)

    def on_step(statistics: StepStatistics) -> None:
        metrics.append(statistics)
        if progress:
            progress(sum(event.count for event in account.spent), planned, account)

    lost = job.method.train(
        model,
        job.images,
        job.config,
        job.plan,
        account,
        random,
        **job.mixed_with,
        checkpoints=checkpoints,
        on_step=on_step,
    )
    card = release_card(
        account=account,
        plan=job.plan,
        random=random,
        method=job.method.name,
        config=job.config,
        model=model,
        chosen_size=job.chosen_size,
        pool=job.pool,
        lost_steps=lost,
        training_seconds=metrics.seconds,
        test=accuracy(model, job.test) if job.test else None,
    )
    run.release(
        classifier_files(model) | {"card.json": json_bytes(card), "card.md": card_markdown(card).encode()}
    )
    account.close()
    return _result(run)


def _result(run: RunDirectory) -> Result:
    path = run.release_path / "card.json"
    card = read_json(path)
    with reading(str(path)):
        test = card["test"]
        accuracy_on_test = Accuracy(test["correct"], test["total"]) if test else None
        epsilon, delta = float(card["epsilon"]), float(card["delta"])
    return Result(epsilon, delta, accuracy_on_test, run.release_path, load_classifier(run.release_path))
