"""What a pool has cost that was made of private images: synthetic images that an earlier run released."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpvision.images import ImageSet
from dpvision.images.files import reading
from dpvision.images.public import USED_AS, Overlaps
from dpvision.images.released import release_with
from dpvision.privacy import Event, Ledger, default_ledger_path
from dpvision.privacy.accounting import epsilon
from dpvision.runs import RunDirectory
from dpvision.runs.places import is_run
from dpvision.views import Pool

logger = logging.getLogger("dpvision")


def refuse_unguarded(pool: Pool, overlaps: Overlaps) -> None:
    """Check that a pool which was made of private images has a guarantee.

    Raises:
        InputError: it has none, and that is not allowed.
    """
    if pool.guarantee is not None and not pool.guarantee["is_private"]:
        refusal = (
            f"the pool {pool.source} was made of private images by a run that is NOT PRIVATE; give another"
        )
        overlaps.refuse(USED_AS.format("images that the pool was made of"), refusal)


def described_pool(pool: Pool, cost: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the card says of a pool. Of one that was made of private images, "with_this_run" is what
    both releases together cost an image, or unit, that is in both: all that either has spent, in one account,
    by the pool's card and by ``cost``, the guarantee of this run. None where they do not protect the same.

    Guarantee: the releases of both runs together, and so the classifier, which is made of both, are that
    private, whether or not the images are the same: composition is adaptive, so that what the second run does
    may depend on what the first has released. It follows from the two cards alone, and tells nothing of whose
    images they are. ``tests/api/test_released_pools.py`` compares it with the ledger of both.
    """
    facts, guarantee = pool.to_json(), pool.guarantee
    if guarantee is None:
        return facts
    with_this_run = None
    if guarantee["unit"] == cost["unit"]:
        events, delta = [*events_of_card(guarantee), *events_of_card(cost)], cost["delta"]
        with_this_run = {
            "epsilon": epsilon(events, delta, cost["neighboring_relation"]),
            "delta": delta,
        }
    return {**facts, "guarantee": {**guarantee, "with_this_run": with_this_run}}


def warn_of_unknown_spending(
    guarantee: Mapping[str, Any],
    what: str,
    spec: str | os.PathLike[str],
    images: ImageSet,
    ledger: Path,
) -> None:
    """Tell the operator, and nobody else, where a release was made of these very images, or may have been,
    and no ledger of theirs has what it cost: then no limit of their owner's counts it.

    Args:
        guarantee: what is guaranteed of the release.
        what: what is made of it, for people.
        spec: where it is.
        images: the private images.
        ledger: the path of their ledger, which may not be there yet.
    """
    ledgers, release = {ledger, default_ledger_path(images.digest)}, release_with(spec)
    # A classifier's release is none of images, and is the place itself.
    homes = [release.parent] if release is not None else [Path(spec), Path(spec).absolute().parent]
    run = next((RunDirectory.open(home) for home in homes if is_run(home)), None)
    if run is not None and run.private:  # a run that read private images
        if run.of_account("digest") != images.digest:
            return
        ledgers.add(Path(run.of_account("ledger")))
    found = [Ledger(path).counted().values() for path in ledgers if path.exists()]
    counted = {event for runs in found for events in runs for event in events}
    if not set(events_of_card(guarantee)) <= counted:
        logger.warning(
            f"{what} was made of private images, and no ledger of {images.source} has what that cost: if it "
            "was made of these images, their owner's limit does not count it; the card says what both runs "
            "cost together (this is private: do not publish it)"
        )


def events_of_card(card: Mapping[str, Any]) -> tuple[Event, ...]:
    """Return the events that a card states. InputError where it states something else."""
    with reading("the events on the card of a release"):
        return tuple(Event.from_json(one["event"]) for one in card["events"])
