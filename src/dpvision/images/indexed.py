"""Images as the index of this machine knows them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from dpvision.images.image_set import ImageSet
from dpvision.privacy import Ledger
from dpvision.privacy.image_index import DIGEST_BYTES, ImageIndex, IndexedImages, default_index_folder
from dpvision.privacy.names import AT_A_TIME, Names, names_of, rows_of
from dpvision.privacy.standing import Standing

logger = logging.getLogger("dpvision")


def indexed(images: ImageSet) -> IndexedImages:
    """Return the index that all runs of this machine share, with what these images and units are known by in
    it.
    """
    index = ImageIndex(default_index_folder())
    parts = [index.fingerprints(some.numpy()) for some in images.sketches.split(AT_A_TIME)]
    units = images.units
    return IndexedImages(
        index,
        index.identities(_digests(images)),
        np.concatenate(parts),
        None if units is None else index.identities_of_units(units.digests)[units.of_image.numpy()],
    )


def indexed_if_any(images: ImageSet) -> IndexedImages | None:
    """Return the same, or None where this machine has no index yet: none is made."""
    return indexed(images) if ImageIndex(default_index_folder()).exists else None


def standings(of_all: Sequence[Ledger], images: ImageSet | None) -> list[Standing]:
    """Say what counts for these images and units by that index and their ledgers; see
    `ImageIndex.standings`.
    """
    index = ImageIndex(default_index_folder())
    if images is None:
        return index.standings(of_all, None)
    units = images.units
    of_units = None if units is None else names_of(units.digests, DIGEST_BYTES)[units.of_image.numpy()]
    return index.standings(of_all, _digests(images), of_units)


def warn_of_other_kind(images: ImageSet, known: IndexedImages) -> None:
    """Tell the operator where earlier runs on these images protect something else than a run on them will."""
    count = known.index.count_of_other_kind(known)
    if not count:
        return
    if images.units is None:
        but = "units of several images, and this run protects images: a unit with k of them pays for k"
    else:
        but = "images, and this run protects units: a unit with k of them has paid for k"
    logger.warning(
        f"earlier runs have learned from {count} of the {len(images)} images of {images.source}; those "
        f"protect {but} (this is private: do not publish it)"
    )


def _digests(images: ImageSet) -> Names:
    return rows_of(images.identities.numpy())
