"""Find the ledger that a person means by what they name."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from dpvision.api.sources import training_reading
from dpvision.images import ImageSet
from dpvision.images.choices import Choices
from dpvision.images.indexed import indexed, standings
from dpvision.privacy import Budget, InputError, Ledger, default_ledger_path
from dpvision.privacy.books import ledgers_of_all
from dpvision.privacy.standing import Outcome, largest_fit, outcome, worst
from dpvision.runs import RunDirectory
from dpvision.runs.places import is_run


def ledger_and_images(target: str, choices: Choices | None = None) -> tuple[Ledger, ImageSet | None]:
    """Return the ledger of a data set (begun now if there is none), of a run, or in a file; and, if it was
    named by its data set, the images.

    Args:
        target: a spec for `open_images`, a run's directory, or the path of a ledger (.jsonl).
        choices: those of the runs on these data; where files leave open how they are read.

    Raises:
        InputError: there is none, or the data cannot be read.
    """
    path = Path(target)
    if path.suffix == ".jsonl":
        return Ledger(path), None
    if is_run(path):
        return Ledger(RunDirectory.open(path).of_account("ledger")), None
    reading, _ = training_reading(target, choices or Choices(), keep_large=False)
    images = reading.open()
    path = default_ledger_path(images.digest)
    return Ledger.for_dataset(path, images.digest, images.num_protected, images.protects), images


def account_of(ledger: Ledger, images: ImageSet | None = None, run: str | None = None) -> dict[str, Any]:
    """Return all that is known of a ledger's images, as JSON would have it: private.

    Args:
        ledger: the ledger.
        images: the images, where they are at hand; otherwise those that its runs have touched.
        run: the path of a run's directory, which is marked if it is one of them.

    Returns:
        `Ledger.summary`, with ``this`` of each run, whether it is ``run``; ``worst_image``, the ε that
        counts for the images or units on which the most was spent over all ledgers (null where nothing bounds
        it), how many they are, and how many runs in ledgers of other data sets are among what counts; and
        ``epsilon_fits``, see `largest_fit`, null without a limit.
    """
    this = RunDirectory.open(run).of_account("run_id") if run is not None and is_run(run) else None
    at, found = ledger.stated_at, standings(ledgers_of_all(ledger), images)
    epsilon, standing = worst([one for one in found if one.unit == ledger.unit], at)
    summary = ledger.summary()
    summary["runs"] = [{**one, "this": one["run"] == this} for one in summary["runs"]]
    limited = any(one.limits for one in found)
    return summary | {
        "worst_image": {
            "epsilon": epsilon if epsilon < math.inf else None,
            "images": standing.images,
            "runs_elsewhere": standing.elsewhere,
        },
        "epsilon_fits": largest_fit(found, at) if limited else None,
    }


def limit_used(run: Path) -> Outcome | None:
    """Say how much of their owner's limit the images of a run have used up by now: private.

    Returns:
        None where no limit was set, the run is on no account, or its ledger is gone.
    """
    with suppress(InputError):
        ledger = Ledger(RunDirectory.open(run).of_account("ledger"))
        return outcome(standings(ledgers_of_all(ledger), None))
    return None


def set_limit(ledger: Ledger, images: ImageSet | None, limit: Budget) -> None:
    """Allow at most this much in total on the images of a ledger; where they are at hand, also as part of
    other data sets that no run has learned from yet.
    """
    ledger.set_limit(limit)
    if images is not None:
        known = indexed(images)
        known.index.cover(ledger, known)


def close_run(ledger: Ledger, run: str) -> None:
    """End an abandoned run, named by its directory or its id in the ledger.

    Raises:
        InputError: it is not open there, or a process is working on it.
    """
    if not is_run(run):
        ledger.close_run(run)
        return
    directory = RunDirectory.open(run)
    with directory.locked():
        ledger.close_run(directory.of_account("run_id"))
