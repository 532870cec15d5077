"""Write the files of a store, beside those of its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpvision.images.identity import DIGEST_BYTES, stored_digests
from dpvision.images.image_set import IMAGES_IN_BLOCK
from dpvision.images.images import Images
from dpvision.images.store_files import Content, new_file, save_array
from dpvision.images.stored import (
    CLASSES,
    IDENTITIES,
    LABELS,
    LEFT_OUT,
    NAMES,
    OF_UNITS,
    PIXELS,
    REASONS,
    UNITS,
    Facts,
)
from dpvision.images.texts import Texts


def write_beside_pixels(folder: Path, images: Images) -> Facts:
    """Write all that a store holds of images whose pixels are there already, and return what it holds.

    Args:
        folder: of the store.
        images: as they were read; their pixels are not looked at.

    Raises:
        OSError: of the system.
    """
    Texts.save(folder, CLASSES, images.class_names)
    if images.labels is not None:
        save_array(folder / LABELS, images.labels.numpy())
    if images.names is not None:
        Texts.save(folder, NAMES, images.names)
    if images.units is not None:
        save_array(folder / OF_UNITS, images.units.of_image.numpy())
        Texts.save(folder, UNITS, images.units.names)
    Texts.save(folder, LEFT_OUT, (one.name for one in images.left_out))
    Texts.save(folder, REASONS, (one.reason for one in images.left_out))
    return Facts(
        count=len(images),
        shape=images.shape,
        labelled=images.labels is not None,
        named=images.names is not None,
        units_from=None if images.units is None else images.units.origin,
        converted=images.converted,
        pixel_digest=_write_identities(folder, images),
    )


def _write_identities(folder: Path, images: Images) -> str:
    """Write what each image is known by, and return the pixel digest of all."""
    sha256 = hashlib.sha256()
    with new_file(folder / IDENTITIES) as file:
        for digests in _digests(folder, images):
            sha256.update(digests[:, :DIGEST_BYTES].tobytes())
            file.write(digests[:, DIGEST_BYTES:].tobytes())
    return sha256.hexdigest()


def _digests(folder: Path, images: Images) -> Iterator[NDArray[np.uint8]]:
    """Yield the `stored_digests` of all images, uint8 [n, 64], some at a time."""
    if images.stored is not None:
        yield from np.split(images.stored.numpy(), range(IMAGES_IN_BLOCK, len(images), IMAGES_IN_BLOCK))
        return
    content, size = Content(folder / PIXELS), int(np.prod(images.shape))
    for first in range(0, len(images), IMAGES_IN_BLOCK):
        block = np.empty((min(IMAGES_IN_BLOCK, len(images) - first), *images.shape), dtype=np.uint8)
        content.read_into(block.data.cast("B"), first * size)
        joined = b"".join(map(stored_digests, block))
        yield np.frombuffer(joined, dtype=np.uint8).reshape(len(block), -1)
