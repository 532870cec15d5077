"""Find out how to read images: those to train on, and those that must fit a model."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_low
from typing import Any

from dpvision.images import ImageSet, available_splits, cache_images, image_sizes, open_images
from dpvision.images.choices import Choices
from dpvision.images.hub import is_hub, pinned
from dpvision.images.pixel_file import Told
from dpvision.images.stored import StoredImages
from dpvision.privacy.errors import InputError, named_option

logger = logging.getLogger("dpvision")

Source = str | os.PathLike[str] | ImageSet
"""A source of images: anything that `open_images` takes, or images in memory."""

# Larger images take hours where a first run should take minutes, so they are made smaller unless told
# otherwise.
LARGEST_DEFAULT_SIDE = 64
SMALL_SIDE = 32

RESIZED = {
    "crop": "is cropped to its middle square and resized to",
    "pad": "is made a square with black beside it and resized to",
    "stretch": "is stretched to",
}
"""What becomes of an image, in words."""
MOST_SIZES_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Reading(Choices):
    """A record of how a data set was read: `open_images`' arguments. No spec means images in memory."""

    spec: str | None = None
    split: str = "train"

    def open(self, labelled: bool | None = True) -> ImageSet:
        """Read it (again); ``labelled`` as in `open_images`."""
        assert self.spec is not None
        return open_images(self.spec, self.split, labelled=labelled, **self.given())

    def keep(self, told: Told) -> StoredImages:
        """Read it into a store, unless it is in one, with labels where there are some; ``told`` as in
        `cache_images`.
        """
        assert self.spec is not None
        return cache_images(self.spec, self.split, labelled=None, told=told, **self.given())

    def fitting(self) -> dict[str, Any]:
        """Return the choices, as JSON types, by which other images are to be read for a model of these."""
        return {"resize": self.resize, "value_range": self.value_range and list(self.value_range)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Reading:
        """Make a reading of its fields: the inverse of `dataclasses.asdict`.

        Raises:
            TypeError: they are the fields of something else.
            InputError: one has a value that nothing can be read with.
        """
        reading = cls(**fields)
        columns = (reading.path_column, reading.label_column, reading.split_column, reading.unit_column)
        texts = (reading.spec or "", reading.split, *(column or "" for column in columns))
        numbers = (reading.size or 0, reading.channels or 0)
        if not all(isinstance(t, str) for t in texts) or not all(isinstance(n, int) for n in numbers):
            raise TypeError(f"{fields} does not say how images are read")
        return reading


def training_reading(
    data: Source, choices: Choices, keep_large: bool, split: str = "train"
) -> tuple[Reading, int | None]:
    """Decide how to read the images to train on.

    Returns the reading, and the image size if it was chosen here by looking at the images' sizes, else None.

    Args:
        data: a spec, or images in memory, which stay as they are.
        choices: those of `open_images`; a size that is given is kept to.
        keep_large: whether images that agree in size keep it however large they are.
        split: the split of the spec to read.

    Raises:
        InputError: the data cannot be read, or there are choices for images in memory.
    """
    if isinstance(data, ImageSet):
        if choices != Choices():
            raise InputError(
                f"{', '.join(choices.given())}: for reading files; images in memory stay as they are"
            )
        return Reading(), None
    spec = lasting(data)
    how = Reading(spec=spec, split=split, **choices.given())
    if choices.size is not None:
        return how, None
    sizes = image_sizes(spec, split, **how.given())
    chosen = _choose_size(sizes, keep_large)
    if chosen is not None:
        smallest, largest = min(sizes), max(sizes)
        found = (
            _in_words(smallest) if smallest == largest else f"{_in_words(smallest)} to {_in_words(largest)}"
        )
        logger.info(
            f"the images are {found} pixels: each {RESIZED[choices.resize]} {chosen}×{chosen}; choose "
            f"otherwise with {named_option('size')} and {named_option('resize')}"
        )
    return replace(how, size=chosen), chosen


def fitting_reading(
    data: str | os.PathLike[str],
    split: str | None,
    shape: tuple[int, int, int],
    choices: Choices | None = None,
) -> Reading:
    """Decide how to read images for a model that takes ``shape`` (C, H, W), by other ``choices`` than its
    size and channels. If that is square, they are resized to fit.

    Without a split it is "test" where there is one, or else the data without splits.

    Raises:
        InputError: the data cannot be read.
    """
    spec = lasting(data)
    if split is None:
        available = available_splits(spec, **(choices or Choices()).given())
        split = "test" if "test" in available else available[0]
    channels, height, width = shape
    others = (choices or Choices()).given() | {
        "size": height if height == width else None,
        "channels": channels,
    }
    return Reading(spec=spec, split=split, **others)


def fitting_images(
    data: Source,
    split: str | None,
    shape: tuple[int, int, int],
    labelled: bool = True,
    choices: Choices | None = None,
) -> ImageSet:
    """Return images for a model that takes ``shape``: those in memory as they are, others read to fit. Says
    how many are of another size than the model learned from.

    Raises:
        InputError: they cannot be read.
    """
    if isinstance(data, ImageSet):
        return data
    reading = fitting_reading(data, split, shape, choices)
    images = reading.open(labelled)
    if reading.size is not None:
        assert reading.spec is not None
        sizes = image_sizes(reading.spec, reading.split, **reading.given())
        _tell_of_other_sizes(sizes, reading.size, RESIZED[reading.resize])
    return images


def _tell_of_other_sizes(sizes: Counter[tuple[int, int]], side: int, resized: str) -> None:
    """Tell of images that were resized to squares of a side, of how many and of which sizes."""
    others = Counter({size: count for size, count in sizes.items() if size != (side, side)})
    if not others:
        return
    named = ", ".join(f"{_in_words(size)} ({count})" for size, count in others.most_common(MOST_SIZES_NAMED))
    rest = " and others" if len(others) > MOST_SIZES_NAMED else ""
    logger.info(
        f"{others.total()} of {sizes.total()} images are of another size than those that the model learned "
        f"from, {_in_words((side, side))}: {named}{rest}; each {resized} that"
    )


def lasting(spec: str | os.PathLike[str]) -> str:
    """Return a spec that means the same from another working directory and on another day: of what is on the
    Hugging Face Hub, with its commit.
    """
    if is_hub(spec):
        return pinned(spec)
    return str(Path(spec).absolute() if Path(spec).exists() else spec)


def _choose_size(sizes: Counter[tuple[int, int]], keep_large: bool) -> int | None:
    if not sizes:
        return None  # nothing to read, which the reader explains best
    if len(sizes) == 1 and (keep_large or max(next(iter(sizes))) <= LARGEST_DEFAULT_SIDE):
        return None
    shorter_side = median_low(min(size) for size in sizes.elements())
    return LARGEST_DEFAULT_SIDE if shorter_side >= LARGEST_DEFAULT_SIDE else SMALL_SIDE


def _in_words(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
