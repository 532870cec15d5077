"""Warn of changed copies: resized, compressed again, flipped left to right, grey. No image is named.

Different images may look alike too. So images are only warned of where clearly more of them have a look-alike
in the other set than is usual inside that set.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.image_set import ImageSet
from dpvision.images.rows_on_disk import RowsOnDisk, rows_at
from dpvision.images.sketch import mirrored
from dpvision.privacy.errors import InputError
from dpvision.privacy.fingerprint import Fingerprints, fingerprints_of
from dpvision.privacy.image_index import IndexedImages
from dpvision.privacy.near import BLOCK, Lookup

MOST_DEGREES = 5.5
"""The greatest angle of two sketches that look alike; see ``benchmarks/near_duplicates.py``."""

MOST_DEGREES_OF_FINGERPRINTS = 4.0
"""The same where only fingerprints are at hand, which measure the angle to about a fifth."""

DEGREES_OF_CANDIDATES = 7.0
"""The angle by fingerprints up to which sketches are compared."""

MOST_LOOKED_AT = 2**19
"""The most images of a set for which look-alikes are sought, at even distances: half a million of them take
some 250 MiB.
"""

SAMPLE = 10_000  # images, at most, that tell what is usual
CLEARLY_MORE = 3  # times what is usual
UNREPORTED = 3  # images, or fewer, in any set

logger = logging.getLogger("dpvision")


def warn_of_look_alikes(images: ImageSet, private: ImageSet, what: str, then: str) -> None:
    """Warn where images look like some of the private ones.

    Args:
        what: what they are, for the message: "images of the pool".
        then: what follows if they are copies.
    """
    chosen = _evenly(len(images), MOST_LOOKED_AT)
    alike = look_alikes(rows_at(images.sketches, chosen), private.sketches)
    if alike.sum() <= UNREPORTED:
        return
    some = _evenly(len(private), SAMPLE)
    usual = look_alikes(rows_at(private.sketches, some), private.sketches, some.numpy()).mean()
    like = f"private images of {private.source}"
    _warn_if_more(alike, float(usual), images, what, like, then)


def warn_of_indexed_look_alikes(
    images: ImageSet, known: IndexedImages, what: str, then: str, *, refuse: str = ""
) -> None:
    """Warn where images look like private ones that the index of this machine knows, other than themselves.

    Args:
        images: the images.
        known: the same, as the index knows them.
        what, then: as for `warn_of_look_alikes`.
        refuse: where they are refused instead, how to mend it.

    Raises:
        InputError: they are refused.
    """
    index, chosen = known.index, _evenly(len(images), MOST_LOOKED_AT)
    queries = index.fingerprints(_with_mirrored(rows_at(images.sketches, chosen)).numpy())
    theirs = index.private_besides(known.identities)
    alike = _of_either(near_some(queries, theirs))
    if alike.sum() <= UNREPORTED:
        return
    # The index may hold sets of many kinds, so what is usual in it may not be so among these images.
    first = theirs[:SAMPLE]
    in_index = near_some(first, theirs, np.arange(len(first)))
    assert known.fingerprints is not None, "images that were looked at have some"
    some = _evenly(len(chosen), SAMPLE)
    in_images = near_some(queries[some.numpy()], known.fingerprints, chosen[some].numpy())
    usual = max(in_index.mean(), in_images.mean())
    like = "private images of earlier runs"
    _warn_if_more(alike, float(usual), images, what, like, then, refuse)


def look_alikes(
    sketches: Tensor, others: Tensor | RowsOnDisk, own: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Say of each image if it, or its mirror image, looks like one of the others, by sketches [N, D], [M, D].

    Args:
        own: the places of the images among the others, where they are some of these: not to be found.
    """
    ours = _with_mirrored(sketches).numpy()
    found = np.zeros(len(ours), dtype=bool)
    most = np.radians(MOST_DEGREES) ** 2
    lookup = Lookup(fingerprints_of(ours, key=b""), DEGREES_OF_CANDIDATES)  # these are kept nowhere
    for block, some in enumerate(others.split(BLOCK)):
        theirs = some.numpy()
        for one, other in lookup.near(fingerprints_of(theirs, key=b"")):
            steps = ours[one].astype(np.float32) - theirs[other]
            near = np.einsum("ij,ij->i", steps, steps) <= most
            if own is not None:
                near &= own[one % len(sketches)] != block * BLOCK + other
            found[one[near]] = True
    return _of_either(found)


def fingerprint_look_alikes(
    sketches: Tensor, others: Tensor, key: bytes, own: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Say what `look_alikes` says, but from the fingerprints under a key alone."""
    queries = fingerprints_of(_with_mirrored(sketches).numpy(), key)
    places = None if own is None else np.concatenate([own, own])
    return _of_either(near_some(queries, fingerprints_of(others.numpy(), key), places))


def _with_mirrored(sketches: Tensor) -> Tensor:
    """Return the sketches of images, and then those of their mirror images: [2·N, D]."""
    return torch.cat([sketches, mirrored(sketches)])


def _of_either(found: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Combine what was found of images, and then of their mirror images, [2·N]: [N]."""
    return found[: len(found) // 2] | found[len(found) // 2 :]


def near_some(
    queries: Fingerprints, others: Fingerprints, own: NDArray[np.int64] | None = None
) -> NDArray[np.bool_]:
    """Say of each query if it is near to one of the others, but for that at its ``own`` place."""
    found = np.zeros(len(queries), dtype=bool)
    for one, other in Lookup(queries, MOST_DEGREES_OF_FINGERPRINTS).near(others):
        found[one if own is None else one[own[one] != other]] = True
    return found


def _evenly(count: int, most: int) -> Tensor:
    """Return the places of so many images at most, of ``count``, at even distances."""
    return torch.arange(0, count, math.ceil(count / most))


def _warn_if_more(
    alike: NDArray[np.bool_],
    usual: float,
    images: ImageSet,
    what: str,
    like: str,
    then: str,
    refuse: str = "",
) -> None:
    """Warn where clearly more images than usual look alike, ``usual`` a share."""
    count, size = int(alike.sum()), len(alike)
    if count > UNREPORTED + CLEARLY_MORE * usual * size:
        looked_at = "" if size == len(images) else f" that were looked at, of {len(images)},"
        found = (
            f"{count} of the {size} {what} ({images.source}){looked_at} look like {like} (resized, "
            f"re-compressed or flipped copies?); {then}"
        )
        if refuse:
            raise InputError(f"{found}; {refuse}")
        logger.warning(f"{found} (this is private: do not publish it)")
