"""Images as the index of this machine knows them."""

from __future__ import annotations

from dpvision.images.image_set import ImageSet
from dpvision.privacy.image_index import ImageIndex, IndexedImages, default_index_folder


def indexed(images: ImageSet) -> IndexedImages:
    """Return the index that all runs of this machine share, with the identities and fingerprints of these
    images in it.
    """
    index = ImageIndex(default_index_folder())
    identities = index.identities(one.tobytes() for one in images.identities.numpy())
    return IndexedImages(index, identities, index.fingerprints(images.sketches.numpy()))
