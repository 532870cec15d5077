"""Find private images among those that no guarantee covers: they are refused, unless the owner insists."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from dpvision.images.identity import identities_of
from dpvision.images.image_set import ImageSet
from dpvision.images.indexed import indexed_if_any
from dpvision.privacy import InputError, Ledger, default_ledger_path
from dpvision.privacy.names import AT_A_TIME, Names, rows_of

USED_AS = "there are private images among the {}, where the guarantee does not cover them"


class Overlaps:
    """What private images are used for outside the guarantee of a run.

    Guarantee: what is found is refused, or, where the owner has allowed it, among ``found``, which the card
    lists under NOT PRIVATE. ``tests/api/test_overlaps.py`` tries every way in.

    Args:
        are_allowed: whether the owner insists.
        found: what was found before; of a run that is taken up again.

    Attributes:
        found: what was found, in sentences for the card: public, and without a count.
    """

    def __init__(self, are_allowed: bool = False, found: Iterable[str] = ()) -> None:
        self.are_allowed = are_allowed
        self.found = list(found)

    def refuse(self, use: str, refusal: str) -> None:
        """Refuse a use of private images that no guarantee covers, or note it.

        Args:
            use: says what they are used for, for the card.
            refusal: says what was found, and what to do about it.

        Raises:
            InputError: the owner has not allowed it.
        """
        if not self.are_allowed:
            raise InputError(refusal)
        if use not in self.found:
            self.found.append(use)


def refuse_data_with_ledger(images: ImageSet, what: str, overlaps: Overlaps | None = None) -> None:
    """Check that nobody on this machine has treated any of these images as private.

    Args:
        what: what they are, for the card: "images of the pool".
        overlaps: is told where somebody has; by default that is refused.

    Raises:
        InputError: somebody has, and that is not allowed.
    """
    problem = treated_as_private(images)
    if problem:
        (overlaps or Overlaps()).refuse(
            USED_AS.format(what),
            f"{problem}; give others",
        )


def treated_as_private(images: ImageSet) -> str | None:
    """Say by what somebody on this machine has treated some of the images as private."""
    ledger = default_ledger_path(images.digest)
    if ledger.exists() and _counts(Ledger(ledger)):
        return f"{images.source} is a private data set, with the ledger {ledger}"
    known = indexed_if_any(images)
    shared = known.index.count_private(known.identities) if known else 0
    if shared:
        return (
            f"{shared} of the {len(images)} images of {images.source} are private ones, which runs on this "
            "machine have learned from"
        )
    return None


def _counts(ledger: Ledger) -> bool:
    """Say whether a ledger has a run or a limit. What was refused may have left one without."""
    return bool(ledger.counted()) or ledger.limit is not None


def refuse_private_images(images: ImageSet, private: ImageSet, what: str, overlaps: Overlaps) -> None:
    """Check that none of the images is a private one, pixel for pixel, as they are stored or as they were
    read.

    Copies that were changed, if only by another compression, are not refused; see `warn_of_look_alikes`.

    Args:
        what: what they are, for the message: "images of the pool".
        overlaps: is told where some are: how many, and not which.

    Raises:
        InputError: some are, and that is not allowed.
    """
    shared = int(_are_private(images, private).sum())
    if shared:
        overlaps.refuse(
            USED_AS.format(what),
            f"{shared} of the {len(images)} {what} ({images.source}) are among the private images of "
            f"{private.source}, which no guarantee would cover; give others",
        )


def without_private_images(images: ImageSet, private: ImageSet) -> ImageSet:
    """Return the images but those that are private ones, as `refuse_private_images` knows them.

    Raises:
        InputError: all are.
    """
    are_private = _are_private(images, private)
    if are_private.all():
        raise InputError(
            f"all {len(images)} images of {images.source} are among the private images of {private.source}; "
            "give others of the same kind"
        )
    return images.subset(np.flatnonzero(~are_private).tolist()) if are_private.any() else images


def _are_private(images: ImageSet, private: ImageSet) -> NDArray[np.bool_]:
    """Say of each image if it is a private one, pixel for pixel."""
    ours = [np.concatenate(list(names)) for names in (_as_stored(images), _as_read(images))]
    sought = np.unique(np.concatenate(ours))
    private_ones = sought[_among(sought, itertools.chain(_as_stored(private), _as_read(private)))]
    return np.logical_or(*(np.isin(names, private_ones) for names in ours))


def _as_stored(images: ImageSet) -> Iterator[Names]:
    """Yield what each image is known by as it is stored, some at a time."""
    return (rows_of(some.numpy()) for some in images.identities.split(AT_A_TIME))


def _as_read(images: ImageSet) -> Iterator[Names]:
    """Yield what each image is known by as it was read, some at a time."""
    if not images.converted:
        return _as_stored(images)
    return (rows_of(identities_of(block).numpy()) for block in images.blocks())


def _among(sought: Names, names: Iterable[Names]) -> NDArray[np.bool_]:
    """Say of each of some names, in order, if it is among others, which come some at a time."""
    found = np.zeros(len(sought), dtype=bool)
    for some in names:
        places = np.searchsorted(sought, some).clip(max=len(sought) - 1)
        found[places[sought[places] == some]] = True
    return found
