"""The interface through which the rest of the program uses images, wherever they lie."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dpvision.images.faults import Unreadable
from dpvision.images.identity import digest_of, identities_of
from dpvision.images.rows_on_disk import RowsOnDisk, gathered, kept_rows, rows_at
from dpvision.images.sketch import MOST_OF_SKETCHES, sketches_of
from dpvision.images.text import listing
from dpvision.images.texts import picked
from dpvision.images.units import Units, names_given
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import Unit

IMAGES_IN_BLOCK = 256
"""The number of images in a block, by default, where something goes through all images."""


class ImageSet(ABC):
    """A set of images, in memory or not, of which only some are held at a time.

    A kind of sets sets the attributes and defines ``take``; the rest follows from these. No set changes.

    Attributes:
        shape: (C, H, W) of every image, C 1 (grey) or 3 (RGB).
        labels: int64 [N], each an index into class_names, or None.
        class_names: all classes, in the order of their indices; public, as N is. Empty without labels.
        source: where the images came from, for messages and records.
        names: one name per image (for a folder its path inside the folder), or None.
        ids: int64 [N], distinct: whose random draws an image gets in training, see
            :mod:`dpvision.privacy.by_example`. They are no part of the data set's identity and are written
            nowhere.
        left_out: the images that reading was asked to leave out, since they cannot be read.
        units: whose image each is, where a guarantee is to protect all images of one unit together; None
            where each is protected by itself.
    """

    labels: Tensor | None
    class_names: tuple[str, ...]
    source: str
    names: Sequence[str] | None
    ids: Tensor
    units: Units | None = None
    left_out: tuple[Unreadable, ...] = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]: ...

    @abstractmethod
    def take(self, indices: Tensor) -> Tensor:
        """Return the images at indices, int64 [n], in this order: uint8 [n, C, H, W], on the CPU."""

    @property
    def converted(self) -> bool:
        """Whether reading may have changed the size or channels that the images are stored with."""
        return False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_protected(self) -> int:
        """The number of units, or of images where each is protected by itself."""
        return len(self) if self.units is None else len(self.units)

    @property
    def protects(self) -> Unit:
        """What a run on these images protects: each image, or each unit."""
        return "image" if self.units is None else "unit"

    @property
    def protected_ids(self) -> Tensor:
        """The ids of the units, or of the images where each is protected by itself."""
        return self.ids if self.units is None else self.units.ids

    def __repr__(self) -> str:
        """Say how many images there are and of which shape: no pixel, and no name, for both are private."""
        shape = "×".join(map(str, self.shape))
        units = "" if self.units is None else f" of {len(self.units)} units"
        return f"<{type(self).__name__}: {len(self)} of {shape}{units}, {len(self.class_names)} classes>"

    def __str__(self) -> str:
        """Describe the set in three lines, likewise: what there is, the classes, and what is protected."""
        classes, protected = "without labels", "each is protected by itself"
        if self.labels is not None:
            classes = f"{len(self.class_names)} classes"
        if self.units is not None:
            protected = f"of {len(self.units):,} units, each protected as a whole"
        shape = "×".join(map(str, self.shape))
        return f"{len(self):,} images of {shape} (channels, height, width)\n{classes}\n{protected}"

    def blocks(self, size: int = IMAGES_IN_BLOCK) -> Iterator[Tensor]:
        """Yield all images in their order, uint8 [n, C, H, W] with n = size, or fewer in the last block."""
        begins = range(0, len(self), size)
        return self.take_each(torch.arange(begin, min(begin + size, len(self))) for begin in begins)

    def take_each(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images of several blocks of indices, as ``take`` gives them. Where images are not in
        memory, those of the next blocks may be read meanwhile.
        """
        return map(self.take, blocks)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of the images as stored, of the labels and of the units: the data set's identity,
        whatever size and channels it is read with. Private, as the pixels are.
        """
        sha256 = hashlib.sha256(repr((len(self), self.pixel_digest, self.labels is not None)).encode())
        if self.labels is not None:
            sha256.update(self.labels.cpu().contiguous().numpy().astype("<i8").data)
        if self.units is not None:
            sha256.update(b"units" + b"".join(self.units.digests))
            sha256.update(self.units.of_image.numpy().astype("<i8").data)
        return sha256.hexdigest()

    @cached_property
    def pixel_digest(self) -> str:
        """The SHA-256 (hex) of the images as stored, without labels. Private, as the pixels are."""
        return digest_of(image for block in self.blocks() for image in block.numpy())

    @cached_property
    def identities(self) -> Tensor:
        """What each image is known by, as it is stored, whatever its name, label, place, file format and the
        size and channels it is read with: uint8 [N, 32]. Private.
        """
        return gathered(map(identities_of, self.blocks()), len(self))

    @cached_property
    def sketches(self) -> Tensor | RowsOnDisk:
        """What each image looks like, as it was read: float16 [N, 63], see `sketches_of`; of very many images
        in a file. Private.
        """
        return kept_rows(map(sketches_of, self.blocks()), len(self), most=MOST_OF_SKETCHES)

    def subset(self, indices: Sequence[int] | Tensor) -> ImageSet:
        """Return the images at these indices, in this order, with the same classes and ids.

        Where an image is taken twice, as for a bootstrap, it becomes two examples, and all ids are new ones.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        ids = self.ids[chosen]
        return self._derived(
            chosen,
            labels=None if self.labels is None else self.labels[chosen],
            names=None if self.names is None else picked(self.names, chosen),
            ids=ids if len(ids.unique()) == len(ids) else torch.arange(len(ids)),
            units=None if self.units is None else self.units.subset(chosen),
        )

    def none(self) -> ImageSet:
        """Return no images, of the same shape and classes: what a process may have as its share."""
        nobody = torch.empty(0, dtype=torch.int64)
        return ImageSet._derived(
            self,
            nobody,
            labels=None if self.labels is None else self.labels[nobody],
            names=None,
            ids=nobody,
            units=None if self.units is None else self.units.subset(nobody),
        )

    def with_classes(self, class_names: Sequence[str]) -> ImageSet:
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
                f"({listing(class_names)}); rename or remove it"
            )
        # A class without images may be unknown: its entry (-1) is never looked up.
        new_index = torch.tensor([index.get(name, -1) for name in self.class_names], dtype=torch.int64)
        return self._derived(None, labels=new_index[self.labels.cpu()], class_names=tuple(class_names))

    def relabelled(self, labels: Tensor) -> ImageSet:
        """Return the same images with other labels of the same classes, int64 [N]."""
        return self._derived(None, labels=labels)

    def with_units(self, units: Units | Sequence[object] | Tensor | None) -> ImageSet:
        """Return the same images as those of units: given as such, or by the name of each image's unit, [N]
        texts or numbers. None makes each image one of its own.

        Raises:
            InputError: there are not as many names as images, or an image has none.
        """
        if units is not None and not isinstance(units, Units):
            units = Units.named(names_given(units, len(self), self.source), self.source)
        return self._derived(None, units=units)

    def _derived(self, indices: Tensor | None, **changed: Any) -> ImageSet:
        """Return the images at ``indices``, or all, with other values of some attributes."""
        kept = ("labels", "class_names", "source", "names", "ids", "units")
        same = {name: getattr(self, name) for name in kept}
        return Chosen(self, torch.arange(len(self)) if indices is None else indices, **{**same, **changed})

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
            **({} if self.units is None else self.units.summary()),
            "shape": list(self.shape),
            "class_names": list(self.class_names),
            "class_counts": counts,
        }


class Chosen(ImageSet):
    """Some images of another set, with attributes of their own; see :meth:`ImageSet.subset`."""

    def __init__(
        self,
        images: ImageSet,
        indices: Tensor,
        labels: Tensor | None,
        class_names: tuple[str, ...],
        source: str,
        names: Sequence[str] | None,
        ids: Tensor,
        units: Units | None,
    ) -> None:
        self.labels, self.class_names, self.source = labels, class_names, source
        self.names, self.ids, self.units = names, ids, units
        self.left_out = images.left_out
        self._images, self._indices = images, indices

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._images.shape

    @property
    def converted(self) -> bool:
        return self._images.converted

    def take(self, indices: Tensor) -> Tensor:
        return self._images.take(self._indices[indices])

    def take_each(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        return self._images.take_each(self._indices[indices] for indices in blocks)

    @cached_property
    def identities(self) -> Tensor:
        return self._images.identities[self._indices]

    @cached_property
    def sketches(self) -> Tensor | RowsOnDisk:
        theirs = self._images.sketches
        parts = (rows_at(theirs, some) for some in self._indices.split(IMAGES_IN_BLOCK))
        return kept_rows(parts, len(self), most=MOST_OF_SKETCHES)
