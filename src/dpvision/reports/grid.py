"""Sheets of images with a class to a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dpvision.images import ImageSet
from dpvision.images.sheet import sheet

MOST_ROWS = 20
"""The most classes on a sheet. Of more the first are shown, and it says so."""


def class_sheet(images: ImageSet, columns: int) -> bytes:
    """Return the sheet of the first images of each class, so many at most; without labels, of the first
    images, in as many rows as columns.
    """
    if images.labels is None:
        some = images.take(torch.arange(min(len(images), columns**2)))
        return image_sheet(some.split(columns), columns=columns)
    of_class = [(images.labels == label).nonzero().flatten() for label in range(len(images.class_names))]
    rows = [images.take(found[:columns]) for found in of_class]
    return image_sheet(rows, images.class_names, columns=columns)


def image_sheet(rows: Sequence[Tensor], names: Sequence[str] = (), *, columns: int) -> bytes:
    """Return a PNG of rows of images.

    Args:
        rows: the images of each row, uint8 ``[n, C, H, W]`` with n from 0 to ``columns``.
        names: as of :func:`dpvision.images.sheet.sheet`.
        columns: the most images of a row.
    """
    shown = [[row] for row in rows[:MOST_ROWS]]
    note = f"{len(shown)} of {len(rows)} classes" if len(shown) < len(rows) else ""
    return sheet(shown, names[:MOST_ROWS], columns=(columns,), note=note)
