"""The one form in which every reader hands over a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.images.text import acts
from dpvision.privacy.by_example import distinct_ids
from dpvision.privacy.errors import InputError

DIGEST_BYTES = 32  # of SHA-256

IMAGES_IN_BLOCK = 256
"""The number of images in a block, by default, where something goes through all images."""


@dataclass(frozen=True, eq=False)
class Images:
    """A set of images in memory, with or without labels.

    Attributes:
        pixels: uint8 [N, C, H, W], N at least 1, C 1 (grey) or 3 (RGB).
        labels: int64 [N], each an index into class_names, or None.
        class_names: all classes, in the order of their indices; public, as N is. Empty without labels.
        source: where the images came from, for messages and records.
        names: one name per image (for a folder its path inside the folder), or None.
        stored: `digest_of` the images as they were before reading changed their size or channels, or None if
            pixels are as they were.
        ids: int64 [N], distinct: whose random draws an image gets in training, see
            :mod:`dpvision.privacy.by_example`. By default 0 … N − 1. They are no part of the data set's
            identity and are written nowhere.

    Raises:
        InputError: if the parts do not fit together.
    """

    pixels: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    source: str
    names: tuple[str, ...] | None = None
    stored: str | None = None
    ids: Tensor = None  # type: ignore[assignment]  # where none are given they are made below

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
            raise InputError(
                f"{self.source}: images must be uint8 of shape [N, 1 or 3, H, W], "
                f"got {pixels.dtype} of shape {list(pixels.shape)}"
            )
        if pixels.numel() == 0:
            raise InputError(f"{self.source} holds no images; at least one is needed")
        check_class_names(self.class_names, self.source)
        if labels is not None:
            if labels.dtype != torch.int64 or labels.shape != (len(self),):
                raise InputError(
                    f"{self.source}: {len(self)} images need as many int64 labels, "
                    f"got {labels.dtype} of shape {list(labels.shape)}"
                )
            if int(labels.min()) < 0 or int(labels.max()) >= len(self.class_names):
                raise InputError(
                    f"{self.source}: labels must lie in 0..{len(self.class_names) - 1} (one per class), "
                    f"found {int(labels.min())}..{int(labels.max())}"
                )
        if self.names is not None and len(self.names) != len(self):
            raise InputError(f"{self.source}: {len(self)} images need as many names, got {len(self.names)}")
        object.__setattr__(self, "ids", distinct_ids(self.ids, len(self), self.source))

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of every image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of the images as stored and of the labels: the data set's identity, whatever size
        and channels it is read with. Private, as the pixels are.
        """
        sha256 = hashlib.sha256(repr((len(self), self.pixel_digest, self.labels is not None)).encode())
        if self.labels is not None:
            sha256.update(self.labels.cpu().contiguous().numpy().astype("<i8").data)
        return sha256.hexdigest()

    @cached_property
    def pixel_digest(self) -> str:
        """The SHA-256 (hex) of the images as stored, without labels. Private, as the pixels are."""
        return self.stored or digest_of(image for block in self.blocks() for image in block.cpu().numpy())

    def take(self, indices: Tensor) -> Tensor:
        """Return the images at indices, int64 [n], in this order: uint8 [n, C, H, W]."""
        return self.pixels[indices.to(self.pixels.device)]

    def blocks(self, size: int = IMAGES_IN_BLOCK) -> Iterator[Tensor]:
        """Yield all images in their order, uint8 [n, C, H, W] with n = size, or fewer in the last block."""
        return iter(self.pixels.split(size))

    def subset(self, indices: Sequence[int] | Tensor) -> Images:
        """Return the images at these indices, in this order, with the same classes and ids. Consecutive ones
        are not copied.

        Where an image is taken twice, as for a bootstrap, it becomes two examples, and all ids are new ones.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        ids = self.ids[chosen]
        return Images(
            pixels=_rows(self.pixels, chosen),
            labels=None if self.labels is None else self.labels[chosen],
            class_names=self.class_names,
            source=self.source,
            names=None if self.names is None else tuple(self.names[i] for i in chosen.tolist()),
            ids=ids if len(ids.unique()) == len(ids) else torch.arange(len(ids)),
        )

    def with_classes(self, class_names: Sequence[str]) -> Images:
        """Return the same images labelled in the order of other classes (say, those a model was trained on).

        Raises:
            InputError: if there are no labels, or an image belongs to a class that class_names lacks.
        """
        if self.labels is None:
            raise InputError(f"{self.source} has no labels to match with classes; give labelled images")
        index = {name: i for i, name in enumerate(class_names)}
        missing = [
            self.class_names[i] for i in self.labels.unique().tolist() if self.class_names[i] not in index
        ]
        if missing:
            raise InputError(
                f"{self.source} has images of class '{missing[0]}', which is not among the known classes "
                f"({_listing(class_names)}); rename or remove it"
            )
        # A class without images may be unknown: its entry (-1) is never looked up.
        new_index = torch.tensor([index.get(name, -1) for name in self.class_names], dtype=torch.int64)
        return Images(
            self.pixels,
            new_index[self.labels.cpu()],
            tuple(class_names),
            self.source,
            self.names,
            self.stored,
            self.ids,
        )

    def check_classes(self) -> None:
        """Raise InputError unless there are labels, and two classes by name. Whether a private class has
        images is private: nothing that shows may depend on it.
        """
        self._check_two(self.class_names)

    def check_trainable(self) -> None:
        """Raise InputError unless a classifier can be trained: labelled images of at least two classes."""
        present = [] if self.labels is None else self.labels.unique().tolist()
        self._check_two([self.class_names[i] for i in present])

    def _check_two(self, class_names: Sequence[str]) -> None:
        if self.labels is None:
            raise InputError(f"{self.source} has no labels; a classifier needs labelled images to train on")
        if len(class_names) < 2:
            raise InputError(
                f"{self.source} has images of one class only ('{class_names[0]}'); a classifier needs at "
                "least two"
            )

    def summary(self) -> dict[str, Any]:
        """Describe the data set's content, as JSON types. Counts are exact, so private: do not publish."""
        counts = None
        if self.labels is not None:
            per_class = torch.bincount(self.labels.cpu(), minlength=len(self.class_names)).tolist()
            counts = dict(zip(self.class_names, per_class, strict=True))
        return {
            "notice": "private: do not publish",
            "source": self.source,
            "num_examples": len(self),
            "shape": list(self.shape),
            "class_names": list(self.class_names),
            "class_counts": counts,
        }


def check_class_names(class_names: Sequence[str], source: str) -> None:
    """Check names that are going to be shown, in a terminal and in public.

    Raises:
        InputError: two are the same, or one has characters that would not show, but act: control characters
            and line breaks, which terminals obey; those that change the direction of the text around them;
            bytes of a file's name that are no text.
    """
    if len(set(class_names)) != len(class_names):
        raise InputError(f"{source}: two classes have the same name; give each its own")
    for name in class_names:
        if not isinstance(name, str) or any(acts(character) for character in name):
            raise InputError(f"{source}: {name!r} cannot be the name of a class; rename it, in plain text")


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


def _rows(pixels: Tensor, chosen: Tensor) -> Tensor:
    """Return the rows chosen, as a view where they follow each other."""
    first, count = int(chosen[0]) if len(chosen) else 0, len(chosen)
    if first >= 0 and torch.equal(chosen.cpu(), torch.arange(first, first + count)):
        return pixels[first : first + count]
    return pixels[chosen]


def _listing(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
