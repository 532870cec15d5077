"""Whose images are whose: units, such as patients, whose images a guarantee protects together."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dpvision.privacy.by_example import distinct_ids
from dpvision.privacy.errors import InputError

if TYPE_CHECKING:
    from dpvision.images.image_set import ImageSet

logger = logging.getLogger("dpvision")

LONGEST_NAME = 2**10
"""Most characters of a unit's name. What is longer is no name, and an array has room for its longest."""

BYTES_OF_A_NAME = 64
"""Bytes that the name of an image's unit is taken to need at least, in memory."""


@dataclass(frozen=True, eq=False, repr=False)
class Units:
    """The unit of each of N images: U units, each of at least one image.

    >>> units = Units.named(["ann", "bob", "ann"], "a clinic")
    >>> len(units), units.of_image, units.sizes
    (2, tensor([0, 1, 0]), tensor([2, 1]))

    Attributes:
        of_image: int64 [N], the index of each image's unit.
        names: of the units, [U], distinct. Private.
        ids: int64 [U], distinct: whose random draws a unit gets in training, see
            :mod:`dpvision.privacy.by_example`; by default 0 … U − 1. They are written nowhere.
        origin: what said whose images are whose, for messages: "column 'patient'". It holds no name.
    """

    of_image: Tensor
    names: tuple[str, ...]
    ids: Tensor = None  # type: ignore[assignment]  # where none are given they are made below
    origin: str = "the names given"

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise InputError("two units have one name; give each its own")
        if self.of_image.dtype != torch.int64 or not torch.equal(
            self.of_image.unique(), torch.arange(len(self.names))
        ):
            raise InputError(f"{len(self.names)} units need indices 0 to {len(self.names) - 1}, all of them")
        object.__setattr__(self, "ids", distinct_ids(self.ids, len(self.names), "units"))

    @classmethod
    def named(cls, names: Sequence[object], source: str, origin: str | None = None) -> Units:
        """Make units of the name of each image's unit, in the order in which they first appear.

        Args:
            names: [N], texts or whole numbers; see :func:`unit_name`.
            source: what they are of, for messages.
            origin: see above.

        Raises:
            InputError: an image has no unit, or one whose name is none.
        """
        texts = [unit_name(name, source) for name in names]
        if missing := texts.count(""):
            raise InputError(
                f"{source}: {missing} of {len(texts)} images have no unit; give each one, or one of its own"
            )
        index = {name: number for number, name in enumerate(dict.fromkeys(texts))}
        of_image = torch.tensor([index[text] for text in texts], dtype=torch.int64)
        return cls(of_image, tuple(index), origin=origin or cls.origin)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def of_images(self) -> list[str]:
        """The name of each image's unit, [N]. Private."""
        return [self.names[unit] for unit in self.of_image.tolist()]

    @cached_property
    def sizes(self) -> Tensor:
        """The number of images of each unit, int64 [U]. Private."""
        return torch.bincount(self.of_image, minlength=len(self))

    @property
    def shares(self) -> Tensor:
        """The share that each image has in its unit, float64 [N]: those of a unit are alike, and add up to
        one.
        """
        return self.sizes.double().reciprocal()[self.of_image]

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor]:
        """The images, sorted by unit, in their order within each; and where each unit begins among them."""
        return self.of_image.argsort(stable=True), self.sizes.cumsum(0) - self.sizes

    def images_at(self, units: Tensor, positions: Tensor) -> Tensor:
        """Return the indices ``[B, M]`` of images at ``positions`` ``[B, M]`` of units ``[B]``, from 0."""
        images, first = self._places
        return images[first[units][:, None] + positions]

    def subset(self, images: Tensor) -> Units:
        """Return the units of some images, by their indices ``[n]``, in this order."""
        kept, of_image = self.of_image[images].unique(return_inverse=True)
        names = tuple(self.names[unit] for unit in kept.tolist())
        return Units(of_image, names, self.ids[kept], self.origin)

    def summary(self) -> dict[str, Any]:
        """Say how many units there are, and how many images they have, as JSON types. Exact, so private."""
        sizes = self.sizes.tolist()
        of_each = {"min": min(sizes), "median": median(sizes), "max": max(sizes)}
        return {"num_units": len(self), "images_per_unit": of_each, "units_from": self.origin}

    @property
    def digests(self) -> list[bytes]:
        """What each unit is known by, whichever data set it comes in: the SHA-256 of its name. Private."""
        return [
            hashlib.sha256(b"unit " + name.encode(errors="surrogatepass")).digest() for name in self.names
        ]


def names_given(units: Any, count: int, source: str) -> list[Any]:
    """Return the names of the units of so many images, given as a sequence, an array or a tensor [N].

    Raises:
        InputError: there are not as many.
    """
    names = units.tolist() if hasattr(units, "tolist") else list(units)
    if not isinstance(names, list):
        raise InputError(f"{source}: {count} images need as many units, got a single one")
    if len(names) != count:
        raise InputError(f"{source}: {count} images need as many units, got {len(names)}")
    return names


def unit_name(value: object, source: str) -> str:
    """Return the name of a unit as a text, "" for none (an empty text, None, NaN).

    Numbers are known by how they are written, those of columns with gaps without their ".0", lest one unit
    become two. Spaces around a name, and NUL, do not count: some formats fill names up with them.

    Raises:
        InputError: it is neither a text nor a whole number, or too long. The message does not show it.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise InputError(
            f"{source}: a unit has a {type(value).__name__} for a name; name units by texts or whole numbers"
        )
    text = str(value).replace("\0", "").strip()
    if len(text) > LONGEST_NAME:
        raise InputError(
            f"{source}: a unit has a name of {len(text)} characters, more than {LONGEST_NAME}; shorten it"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{source}: a unit has a name that is no text; mend it") from None
    return text


def refuse_units_of_both(private: ImageSet, test: ImageSet) -> None:
    """Raise InputError where units have images to train on and test images: what is told of those would not
    be what is to be expected of others.
    """
    if private.units is None:
        return
    if test.units is None:
        logger.warning(
            "nothing says whose the test images are, so it cannot be told whether somebody is in both"
        )
        return
    both = len(set(private.units.names) & set(test.units.names))
    if both:
        raise InputError(
            f"{both} of the {len(test.units)} units of the test images have images among those to train on, "
            "so the test would not be independent; leave them in one of the two"
        )
