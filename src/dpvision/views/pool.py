"""The pool of DP-Mix_Diff (Bao et al., arXiv 2311.01295): public images that private ones are mixed with.

The pool is fixed before training and public, so that what a private example is mixed with depends on no other
private example.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.images import ImageSet, available_splits, open_images
from dpvision.images.files import named
from dpvision.images.images import check_class_names
from dpvision.images.public import Overlaps, refuse_data_with_ledger
from dpvision.images.released import check_as_released, provenance_with, release_with
from dpvision.images.series import POOL_RECORD
from dpvision.privacy.errors import InputError


@dataclass(frozen=True, eq=False)
class Pool:
    """Public images and what classes they show.

    Attributes:
        images: P of them, at least one; their labels do not count.
        targets: float32 [P, num_classes], the probabilities of the classes: one-hot for labelled images,
            uniform for images of no class.
        class_names: the classes, those of the private images and in their order.
        source: where the images came from, for messages and records.
        provenance: how they were made, as JSON types.

    Raises:
        InputError: if the parts do not fit together.
    """

    images: ImageSet
    targets: Tensor
    class_names: tuple[str, ...]
    source: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        check_class_names(self.class_names, self.source)
        expected = (len(self), len(self.class_names))
        if self.targets.dtype != torch.float32 or self.targets.shape != expected:
            raise InputError(
                f"{self.source}: the targets of a pool must be float32 of shape {list(expected)}, "
                f"got {self.targets.dtype} of shape {list(self.targets.shape)}"
            )
        sums = self.targets.double().sum(dim=1)
        if not ((self.targets >= 0).all() and ((sums - 1).abs() < 1e-4).all()):
            raise InputError(f"{self.source}: the targets of a pool must be probabilities that sum to 1")

    def to_json(self) -> dict[str, Any]:
        """Return what is said of the pool in public."""
        how = {name: value for name, value in self.provenance.items() if name != "guarantee"}
        return {"images": len(self), "digest": self.digest, "provenance": how, "guarantee": self.guarantee}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def guarantee(self) -> dict[str, Any] | None:
        """What is guaranteed of images that were made of private ones, see `provenance_of`; else None."""
        return self.provenance.get("guarantee")

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of pixels, targets and class names: the pool's identity. Public, as they are."""
        sha256 = hashlib.sha256(repr(((len(self), *self.images.shape), self.class_names)).encode())
        for block in self.images.blocks():
            sha256.update(block.contiguous().numpy().data)
        sha256.update(self.targets.cpu().contiguous().numpy().astype("<f4").data)
        return sha256.hexdigest()


def open_pool(
    spec: str | os.PathLike[str],
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    overlaps: Overlaps | None = None,
) -> Pool:
    """Read a pool to go with private images.

    Whoever calls this declares its images public: no privacy guarantee covers them. Those that a run of
    synthesize released are covered by its guarantee, which is in the pool's provenance.

    Args:
        spec: what :func:`dpvision.images.open_images` takes; of several splits it is "train". Images without
            labels, such as a plain folder of them, get the same probability for every class.
        image_shape: (C, H, W) of the private images. The pool's become grey or RGB likewise and, if these
            are square, squares of that side.
        class_names: the class names of the private images.
        overlaps: is told of private images among these; by default they are refused.

    Raises:
        InputError: the images cannot be read or brought to that shape, are private ones that have a ledger,
            belong to another class or leave out one, are not all that the pool's record speaks of, or were
            changed since a run released them.
    """
    channels, height, width = image_shape
    images = pool_images(spec, height if height == width else None, channels)
    release = release_with(spec)
    if release is not None:
        check_as_released(release)
    else:
        refuse_data_with_ledger(images, "images of the pool", overlaps)
    if images.shape != image_shape:
        _, pool_height, pool_width = images.shape
        raise InputError(
            f"the pool {spec} has images of {pool_width} x {pool_height} pixels and the private images have "
            f"{width} x {height}; read the private images with a size, which makes squares of both"
        )
    provenance = pool_provenance(spec)
    if provenance.get("count", len(images)) != len(images):
        raise InputError(
            f"the pool {spec} has {len(images)} images and not the {provenance['count']} of its "
            f"{POOL_RECORD}; complete it with the command that began it, or give all of it"
        )
    return Pool(images, _targets(images, class_names), tuple(class_names), str(spec), provenance)


def pool_images(spec: str | os.PathLike[str], size: int | None, channels: int | None) -> ImageSet:
    """Return the images of a pool, with labels if it has any; size and channels are those of ``open_images``.

    Raises:
        InputError: they cannot be read.
    """
    return open_images(spec, pool_split(spec), size=size, channels=channels, labelled=None, unit="image")


def pool_split(spec: str | os.PathLike[str]) -> str:
    """Return the split that is the pool: "train", or the only one.

    Raises:
        InputError: there are others, and more than one.
    """
    splits = available_splits(spec)
    if "train" not in splits and len(splits) > 1:
        raise InputError(f"the pool {spec} has no split 'train' but {', '.join(splits)}; keep one of them")
    return "train" if "train" in splits else splits[0]


def pool_provenance(spec: str | os.PathLike[str]) -> dict[str, Any]:
    """Return how the images of a pool were made, see `provenance_with`; or, where nothing says it, what the
    pool is called.

    Raises:
        InputError: the record is damaged.
    """
    return provenance_with(spec) or {"source": named(spec)}


def _targets(images: ImageSet, class_names: Sequence[str]) -> Tensor:
    """Return targets, float32 [P, num_classes], for images of a pool."""
    if images.labels is None:
        return torch.full((len(images), len(class_names)), 1 / len(class_names))
    try:
        labels = images.with_classes(class_names).labels
    except InputError as error:
        raise InputError(f"the pool does not go with the private images: {error}") from error
    assert labels is not None
    present = set(labels.tolist())
    for index, name in enumerate(class_names):
        if index not in present:
            raise InputError(
                f"the pool {images.source} has no image of class '{name}', which the private images have; "
                "add some"
            )
    return F.one_hot(labels, len(class_names)).float()
