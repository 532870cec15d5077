"""Images in memory: the one form in which every reader hands over a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dpvision.images.faults import Unreadable
from dpvision.images.identity import DIGEST_BYTES, combine_digests
from dpvision.images.image_set import ImageSet
from dpvision.images.text import acts
from dpvision.images.units import Units
from dpvision.privacy.by_example import distinct_ids
from dpvision.privacy.errors import InputError


@dataclass(frozen=True, eq=False, repr=False)
class Images(ImageSet):
    """A set of images in memory, with or without labels.

    >>> pixels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    >>> images = Images(pixels, torch.tensor([0, 1, 1]), ("a", "b"), "mine")
    >>> len(images), images.shape, images.subset([2, 0]).labels
    (3, (1, 8, 8), tensor([1, 0]))

    Attributes:
        pixels: uint8 [N, C, H, W], N at least 1, C 1 (grey) or 3 (RGB).
        stored: the `stored_digests` of the images as they were before reading changed their size or channels,
            uint8 [N, 64], or None if pixels are as they were.
        left_out: the images that reading was asked to leave out, since they cannot be read; of a part, those
            of the whole.
        labels, class_names, source, names, units: as for every :class:`ImageSet`.
        ids: likewise; by default 0 … N − 1.

    Raises:
        InputError: if the parts do not fit together.
    """

    pixels: Tensor
    labels: Tensor | None
    class_names: tuple[str, ...]
    source: str
    names: tuple[str, ...] | None = None
    stored: Tensor | None = None
    left_out: tuple[Unreadable, ...] = ()
    ids: Tensor = None  # type: ignore[assignment]  # where none are given they are made below
    units: Units | None = None

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
        if self.units is not None and len(self.units.of_image) != len(self):
            raise InputError(
                f"{self.source}: {len(self)} images need as many units, got {len(self.units.of_image)}"
            )
        object.__setattr__(self, "ids", distinct_ids(self.ids, len(self), self.source))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of every image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def __len__(self) -> int:
        return self.pixels.shape[0]

    @cached_property
    def pixel_digest(self) -> str:
        """The SHA-256 (hex) of the images as stored, without labels. Private, as the pixels are."""
        if self.stored is None:
            return super().pixel_digest
        return combine_digests(self.stored[:, :DIGEST_BYTES].numpy().tobytes())

    @cached_property
    def identities(self) -> Tensor:
        """What each image is known by, as it is stored: see `ImageSet.identities`."""
        return super().identities if self.stored is None else self.stored[:, DIGEST_BYTES:]

    @property
    def converted(self) -> bool:
        """Whether reading has changed the size or channels that the images are stored with."""
        return self.stored is not None

    def take(self, indices: Tensor) -> Tensor:
        """Return the images at indices, int64 [n], in this order: uint8 [n, C, H, W], on the CPU. Consecutive
        ones are not copied.
        """
        return rows(self.pixels, indices).cpu()

    def subset(self, indices: Sequence[int] | Tensor) -> Images:
        """Return the images at these indices, see `ImageSet.subset`. Consecutive ones are not copied."""
        some = super().subset(indices)
        assert isinstance(some, Images)
        return some

    def _derived(self, indices: Tensor | None, **changed: Any) -> Images:
        if indices is None:
            return replace(self, **changed)
        stored = None if self.stored is None else rows(self.stored, indices)
        return replace(self, pixels=rows(self.pixels, indices), stored=stored, **changed)


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


def rows(tensor: Tensor, chosen: Tensor) -> Tensor:
    """Return the rows of a tensor at these indices, as a view where they follow each other."""
    first, count = int(chosen[0]) if len(chosen) else 0, len(chosen)
    inside = 0 <= first <= len(tensor) - count
    if inside and torch.equal(chosen.cpu(), torch.arange(first, first + count)):
        return tensor[first : first + count]
    return tensor.index_select(0, chosen.to(tensor.device))  # several times as fast as by brackets
