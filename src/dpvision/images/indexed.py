"""Images as the index of this machine knows them."""

from __future__ import annotations

from collections.abc import Sequence

from dpvision.images.image_set import ImageSet
from dpvision.privacy import Ledger
from dpvision.privacy.image_index import ImageIndex, IndexedImages, default_index_folder
from dpvision.privacy.standing import Standing


def indexed(images: ImageSet) -> IndexedImages:
    """Return the index that all runs of this machine share, with the identities and fingerprints of these
    images in it.
    """
    index = ImageIndex(default_index_folder())
    fingerprints = index.fingerprints(images.sketches.numpy())
    return IndexedImages(index, index.identities(_digests(images)), fingerprints)


def indexed_if_any(images: ImageSet) -> IndexedImages | None:
    """Return the same, or None where this machine has no index yet: none is made."""
    return indexed(images) if ImageIndex(default_index_folder()).exists else None


def standings(of_all: Sequence[Ledger], images: ImageSet | None) -> list[Standing]:
    """Say what counts for these images by that index and their ledgers; see `ImageIndex.standings`."""
    index = ImageIndex(default_index_folder())
    return index.standings(of_all, None if images is None else _digests(images))


def _digests(images: ImageSet) -> list[bytes]:
    return [one.tobytes() for one in images.identities.numpy()]
