"""Open the private record and the privacy account of a run: every run on private images begins with them.
So does a training loop of a user's own, with the account alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpvision.images import ImageSet
from dpvision.images.indexed import indexed
from dpvision.images.public import treated_as_private
from dpvision.methods import Calibrated
from dpvision.privacy import Account, Budget, Event, InputError, Ledger, default_ledger_path
from dpvision.privacy.errors import named_option
from dpvision.privacy.ledger import About
from dpvision.runs import RunDirectory


def private_record(
    images: ImageSet, ledger: str | os.PathLike[str] | None, started: datetime
) -> dict[str, Any]:
    """Return the content of RUN/private/run.json; ``ledger`` is by default the one of the data's digest."""
    digest = images.digest
    return {
        "run_id": f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}",
        "digest": digest,
        "pixel_digest": images.pixel_digest,
        "ledger": str(Path(ledger or default_ledger_path(digest)).absolute()),
    }


def make_account(
    record: Mapping[str, Any],
    images: ImageSet,
    budget: Budget,
    stages: Calibrated,
    method: str,
    folder: Path | None = None,
    *,
    unpaid: bool = False,
    first: bool = False,
) -> Account:
    """Return the account of a run on private images, not open yet.

    Args:
        record: its `private_record`.
        images: the images.
        budget: what it may spend.
        stages: what it will release.
        method: what learns, for people who read the ledger.
        folder: the run's directory, for them too; None where it has none.
        unpaid: whether its images are public, and so no business of the index of private ones.
        first: whether it is refused, when it opens, where others have spent anything on some of the images.

    Guarantee: of an image that anybody on this machine treats as private, no run is unpaid.
    ``tests/api/test_sweeping.py`` tries it.

    Raises:
        InputError: the ledger is of another data set, or damaged, or an unpaid run is of private images.
    """
    if unpaid and images.units is not None:
        raise InputError(
            f"{images.source} says whose each image is, and they may have private images elsewhere; leave "
            f"out {named_option('unpaid', True)}, or say {named_option('unit', 'image')} of public images"
        )
    if unpaid and (problem := treated_as_private(images)):
        raise InputError(f"{problem}; leave out {named_option('unpaid', True)}: what a run costs them counts")
    ledger = Ledger.for_dataset(record["ledger"], record["digest"], images.num_protected, images.protects)
    about = About(str(folder.absolute()) if folder else None, method, len(images))
    known = None if unpaid else indexed(images)
    return Account(budget, ledger, record["run_id"], stages.events, known, about, first=first)


def open_account(
    images: ImageSet,
    budget: Budget,
    planned: Sequence[Event],
    *,
    run: str,
    ledger: str | os.PathLike[str] | None = None,
) -> Account:
    """Open the account of a training loop of one's own: all that it will release is reserved in the ledger of
    the images, where every run on them counts, and in the index of this machine.

    Args:
        images: the private images, each of which is protected by itself.
        budget: what the loop may spend in total.
        planned: all that it will release, such as ``[mechanism.cost(steps)]``.
        run: its name in the ledger, which no run on other images has. That of a loop that was interrupted,
            with the same plan, goes on with what that one had left.
        ledger: the file; by default the one that all runs on these images share.

    Raises:
        BudgetExceeded: the plan costs more than the budget, or than the images' owners allow.
        InputError: the images have units, a run of this name has ended, has another plan or is on other
            images, the ledger is of other images or damaged, or an argument is of the wrong type. In each
            case nothing is spent.

    >>> import dpvision
    >>> from dpvision.privacy import Budget, GaussianSumMechanism, PoissonSampler
    >>> images = dpvision.open_images("bundled:digits")
    >>> step = GaussianSumMechanism(2.0, 1.0, PoissonSampler(len(images), 0.1))
    >>> account = dpvision.open_account(images, Budget(2.0, 1e-5), [step.cost(50)], run="mine")
    >>> account.left(step.event), round(account.epsilon_planned(), 2)
    (50, 1.65)
    """
    if not isinstance(images, ImageSet):
        raise InputError(f"an account is of images, as open_images returns them, not {images!r}")
    if images.units is not None:
        raise InputError(
            f"{images.source} says whose each image is, and a loop of your own protects single images; use "
            "train, or say unit='image' where one image is all that is to be protected"
        )
    if not isinstance(budget, Budget):
        raise InputError(f"budget must be a Budget, such as Budget(epsilon=2, delta=1e-5), not {budget!r}")
    if not isinstance(run, str) or not run.strip() or not run.isprintable():
        raise InputError(f"run must be a name on one line, such as 'own loop', not {run!r}")
    if not isinstance(planned, Sequence) or not planned or not all(isinstance(e, Event) for e in planned):
        raise InputError("planned must be a list of events, such as [mechanism.cost(steps)]")
    budget.check_against(len(images))
    path = Path(ledger or default_ledger_path(images.digest))
    book = Ledger.for_dataset(path, images.digest, len(images))
    account = Account(
        budget, book, run, planned, indexed(images), About(method="own loop", images=len(images))
    )
    account.open()
    return account


def check_ledger(run: RunDirectory, released: Sequence[Event]) -> None:
    """Raise InputError unless the ledger holds what the run has released by its own record."""
    if released:  # else there may be no ledger yet
        Ledger(run.of_account("ledger")).check_spent(run.of_account("run_id"), released)


def check_version(run: RunDirectory) -> None:
    """Raise InputError unless this is the version that began the run: another might go on otherwise."""
    began = run.config.get("dpvision")
    if began != version("dpvision"):
        raise InputError(
            f"{run.path} was begun by dpvision {began}, and this is {version('dpvision')}; "
            "go on with it by that version, or start a new run"
        )


def close_account(run: RunDirectory) -> None:
    """End a run in its ledger, whose process may have died before it could; or nothing, where it did not."""
    with contextlib.suppress(InputError):
        Ledger(run.of_account("ledger")).close_run(run.of_account("run_id"))


def discard_unspent(run: RunDirectory, account: Account | None) -> None:
    """Take back a new run that failed before it spent anything, as if it had never begun.

    Raises:
        InputError: the file system refuses; then the run can be taken up again.
    """
    if account is None or not account.spent:
        if account is not None:
            account.close()
        run.discard()


def check_unchanged(run: RunDirectory, images: ImageSet) -> None:
    """Raise InputError unless these are the images that the run began with."""
    if images.digest != run.of_account("digest"):
        raise InputError(
            f"the images from {images.source} have changed since {run.path} began; "
            "restore them, or start a new run"
        )
