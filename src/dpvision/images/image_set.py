"""The interface through which the rest of the program uses images, wherever they lie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor


class ImageSet(Protocol):
    """A set of images, in memory or not, of which only some are held at a time.

    Attributes, all read-only:
        labels: int64 [N], each an index into class_names, or None.
        class_names: all classes, in the order of their indices.
        source: where the images came from, for messages and records.
        names: one name per image, or None.
        ids: int64 [N], distinct, see :mod:`dpvision.privacy.by_example`.
        shape: (C, H, W) of every image.
        digest, pixel_digest: SHA-256 (hex) of the images with their labels, and without. Private.
    """

    @property
    def labels(self) -> Tensor | None: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...] | None: ...
    @property
    def ids(self) -> Tensor: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def digest(self) -> str: ...
    @property
    def pixel_digest(self) -> str: ...

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Tensor:
        """Return the images at indices, int64 [n], in this order: uint8 [n, C, H, W]."""

    def blocks(self, size: int = ...) -> Iterator[Tensor]:
        """Yield all images in their order, uint8 [n, C, H, W] with n = size, or fewer in the last block."""
