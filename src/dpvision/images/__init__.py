"""Read images: every format that a data set comes in, to one form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.images.files import NoLabelsError
    from dpvision.images.image_set import ImageSet
    from dpvision.images.images import Images
    from dpvision.images.opening import available_splits, image_sizes, open_images

__all__ = ["ImageSet", "Images", "NoLabelsError", "available_splits", "image_sizes", "open_images"]

_HOMES = {
    "ImageSet": "dpvision.images.image_set",
    "Images": "dpvision.images.images",
    "NoLabelsError": "dpvision.images.files",
    "available_splits": "dpvision.images.opening",
    "image_sizes": "dpvision.images.opening",
    "open_images": "dpvision.images.opening",
}

__getattr__ = lazy(__name__, _HOMES)
