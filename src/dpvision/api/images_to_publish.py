"""Resolve which images are published, and refuse those that there would be no room for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dpvision.api.options import FinishOptions
from dpvision.images.files import MAX_GUARANTEE_BYTES, check_fits_memory
from dpvision.images.write import check_formats
from dpvision.privacy import InputError
from dpvision.reports.guarantee_file import canonical

COPIES = 3
"""How often images that are made are in memory: as they are drawn, all together, and as files."""

REST_OF_GUARANTEE = 2**20
"""The bytes of guarantee.json, at most, that do not list files of images."""


def to_publish(
    given: FinishOptions,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
    by_default: int | None,
    *,
    is_release: bool = True,
) -> FinishOptions:
    """Check the options, and resolve how many images to publish.

    Args:
        given: the options.
        class_names: the classes of what makes the images; empty where it has none.
        image_shape: (C, H, W) of the images.
        by_default: how many images there are where nothing says so; None where something must.
        is_release: whether guarantee.json lists their files.

    Raises:
        InputError: a value is not possible, or there is no room for so many images.
    """
    given.check_counts()
    check_formats(given.formats, class_names)
    if given.balanced and not class_names:
        raise InputError("balanced is for images of classes, and these have no labels; leave it out")
    counts, count = given.class_counts, by_default if given.count is None else given.count
    if counts is not None:
        for name in counts:
            if name not in class_names:
                known = ", ".join(class_names) or "none: the images have no labels"
                raise InputError(f"there is no class '{name}' to make images of; the classes are {known}")
        count = sum(counts.values())
    if count is None:
        raise InputError("nothing says how many images to make; give count, or class_counts")
    if is_release and "png" in given.formats and count > (most := most_files(class_names)):
        raise InputError(
            f"{count} images as png would be more files than guarantee.json can list, {most} with such names "
            "of classes; give npz or parquet as the format, or a smaller count"
        )
    check_fits_memory(COPIES * count * math.prod(image_shape), f"{count} images to be made")
    return FinishOptions(
        count=count,
        formats=given.formats,
        balanced=given.balanced,
        class_counts=None if counts is None else dict(counts),
    )


def most_files(class_names: Sequence[str]) -> int:
    """Return how many images can be files of a release, each listed with its digest in guarantee.json, which
    has to be read again.
    """
    digest = "0" * 64
    listed = [canonical({f"images/png/{name}/000000.png": digest}) for name in class_names or [""]]
    return (MAX_GUARANTEE_BYTES - REST_OF_GUARANTEE) // max(map(len, listed))
