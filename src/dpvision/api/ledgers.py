"""Find the ledger that a person means by what they name."""

from __future__ import annotations

from pathlib import Path

from dpvision.api.sources import training_reading
from dpvision.images.indexed import indexed
from dpvision.privacy import Budget, Ledger, default_ledger_path
from dpvision.runs import RunDirectory
from dpvision.runs.places import is_run


def find_ledger(target: str, channels: int | None = None) -> Ledger:
    """Return the ledger of a data set (begun now if there is none), of a run, or in a file.

    Args:
        target: a spec for `open_images`, a run's directory, or the path of a ledger (.jsonl).
        channels: as in `open_images`; needed only for data that mix grey and colour.

    Raises:
        InputError: there is none, or the data cannot be read.
    """
    path = Path(target)
    if path.suffix == ".jsonl":
        return Ledger(path)
    if is_run(path):
        return Ledger(RunDirectory.open(path).of_account("ledger"))
    reading, _ = training_reading(target, None, channels, keep_large=False)
    images = reading.open()
    return Ledger.for_dataset(default_ledger_path(images.digest), images.digest, len(images))


def set_limit(target: str, ledger: Ledger, limit: Budget, channels: int | None = None) -> None:
    """Allow at most this much in total on the images of a ledger; of a data set that is named, also where
    they are part of others.
    """
    ledger.set_limit(limit)
    path = Path(target)
    if path.suffix != ".jsonl" and not is_run(path):
        images = indexed(training_reading(target, None, channels, keep_large=False)[0].open())
        images.index.cover(ledger, images.identities)


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
