"""Find the ledger that a person means by what they name."""

from __future__ import annotations

from pathlib import Path

from dpvision.api.sources import training_reading
from dpvision.images import ImageSet
from dpvision.images.indexed import indexed
from dpvision.privacy import Budget, Ledger, default_ledger_path
from dpvision.runs import RunDirectory
from dpvision.runs.places import is_run


def find_ledger(target: str, channels: int | None = None) -> Ledger:
    """Return the ledger of a data set (begun now if there is none), of a run, or in a file; see
    `ledger_and_images`.
    """
    return ledger_and_images(target, channels)[0]


def ledger_and_images(target: str, channels: int | None = None) -> tuple[Ledger, ImageSet | None]:
    """Return the ledger that is named and, if that was by its data set, the images.

    Args:
        target: a spec for `open_images`, a run's directory, or the path of a ledger (.jsonl).
        channels: as in `open_images`; needed only for data that mix grey and colour.

    Raises:
        InputError: there is none, or the data cannot be read.
    """
    path = Path(target)
    if path.suffix == ".jsonl":
        return Ledger(path), None
    if is_run(path):
        return Ledger(RunDirectory.open(path).of_account("ledger")), None
    reading, _ = training_reading(target, None, channels, keep_large=False)
    images = reading.open()
    ledger = Ledger.for_dataset(default_ledger_path(images.digest), images.digest, len(images))
    return ledger, images


def set_limit(ledger: Ledger, images: ImageSet | None, limit: Budget) -> None:
    """Allow at most this much in total on the images of a ledger; where they are at hand, also as part of
    other data sets that no run has learned from yet.
    """
    ledger.set_limit(limit)
    if images is not None:
        known = indexed(images)
        known.index.cover(ledger, known.identities, known.fingerprints)


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
