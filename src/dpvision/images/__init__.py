"""Read images: every format that a data set comes in, to one form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.images.files import NoLabelsError
    from dpvision.images.image_set import ImageSet
    from dpvision.images.images import Images
    from dpvision.images.in_memory import images_from_arrays, images_from_dataset
    from dpvision.images.opening import (
        available_splits,
        cache_images,
        forget_images,
        image_sizes,
        open_images,
    )
    from dpvision.images.table import images_from_table

__all__ = [
    "ImageSet",
    "Images",
    "NoLabelsError",
    "available_splits",
    "cache_images",
    "forget_images",
    "image_sizes",
    "images_from_arrays",
    "images_from_dataset",
    "images_from_table",
    "open_images",
]

_HOMES = {
    "ImageSet": "dpvision.images.image_set",
    "Images": "dpvision.images.images",
    "NoLabelsError": "dpvision.images.files",
    "available_splits": "dpvision.images.opening",
    "cache_images": "dpvision.images.opening",
    "forget_images": "dpvision.images.opening",
    "image_sizes": "dpvision.images.opening",
    "images_from_arrays": "dpvision.images.in_memory",
    "images_from_dataset": "dpvision.images.in_memory",
    "images_from_table": "dpvision.images.table",
    "open_images": "dpvision.images.opening",
}

if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)
