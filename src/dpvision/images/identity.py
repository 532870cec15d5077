"""Compute the identity of images: digests of their pixels, as they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DIGEST_BYTES = 32  # of SHA-256


def digest_of(images: Iterable[NDArray[np.uint8]]) -> str:
    """Compute SHA-256 (hex) of the shapes and pixels of uint8 images [C, H, W], in their order."""
    sha256 = hashlib.sha256()
    for image in images:
        sha256.update(digest_of_one(image))
    return sha256.hexdigest()


def combine_digests(digests: bytes | bytearray) -> str:
    """Compute `digest_of` images, from `digest_of_one` of each, one after another."""
    return hashlib.sha256(digests).hexdigest()


def digest_of_one(image: NDArray[np.uint8]) -> bytes:
    """Compute SHA-256 of the shape and pixels of one image: `DIGEST_BYTES`."""
    sha256 = hashlib.sha256(repr(image.shape).encode())
    sha256.update(np.ascontiguousarray(image).data)
    return sha256.digest()


def identity_of(image: NDArray[np.uint8]) -> bytes:
    """Compute what one image is known by, wherever and however it is stored: SHA-256 of its shape and pixels,
    where colours that are all grey count as grey.
    """
    return digest_of_one(image[:1] if _is_grey(image) else image)


def identities_of(images: Tensor) -> Tensor:
    """Compute `identity_of` each of some images, uint8 [n, C, H, W]: uint8 [n, 32]."""
    joined = bytearray().join(identity_of(image) for image in images.numpy())
    return torch.frombuffer(joined, dtype=torch.uint8).view(-1, DIGEST_BYTES)


def stored_digests(image: NDArray[np.uint8]) -> bytes:
    """Compute all that stays known of an image once it was converted: `digest_of_one`, then `identity_of`."""
    digest = digest_of_one(image)
    return digest + (digest_of_one(image[:1]) if _is_grey(image) else digest)


def _is_grey(image: NDArray[np.uint8]) -> bool:
    """Say whether an image is of colours that are all grey."""
    return len(image) == 3 and np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2])
