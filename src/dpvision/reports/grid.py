"""Many small images as one: a sheet, with a class to a row."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dpvision.images import ImageSet
from dpvision.images.encode import encode_png

WIDTH = 1000
"""The width of a sheet, in pixels, to which small images are enlarged, by whole numbers."""

MOST_ROWS = 20
"""The most classes on a sheet. Of more the first are shown, and it says so."""

GAP = 6  # pixels around every image
MARGIN = 12  # around the sheet
TEXT_SIZE = 18
LONGEST_TEXT = 190  # pixels of a class's name
PAGE, INK = 232, 40  # greys: images that are black or white at their edges both stand out


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
    """Return a PNG of rows of images, grey or RGB as these are.

    Args:
        rows: the images of each row, uint8 ``[n, C, H, W]`` with n from 0 to ``columns``.
        names: what is written beside each row, if anything; what is too long is shortened.
        columns: the most images of a row.
    """
    count, (channels, height, width) = len(rows), rows[0].shape[1:]
    rows, texts = rows[:MOST_ROWS], [_text(row, name) for row, name in enumerate(names[:MOST_ROWS])]
    left = MARGIN + (max(map(_length, texts)) + MARGIN if texts else 0)
    scale = max(1, round((WIDTH - left - MARGIN - columns * GAP) / (columns * width)))
    step_y, step_x = height * scale + GAP, width * scale + GAP
    bottom = MARGIN + len(rows) * step_y
    note = f"{len(rows)} of {count} classes" if len(rows) < count else ""
    page = np.full(
        (bottom + MARGIN + (2 * TEXT_SIZE if note else 0), left + columns * step_x + MARGIN, channels),
        PAGE,
        dtype=np.uint8,
    )
    for row, images in enumerate(rows):
        for column, image in enumerate(images.cpu().numpy()):
            enlarged = image.repeat(scale, axis=1).repeat(scale, axis=2).transpose(1, 2, 0)
            top, start = MARGIN + row * step_y, left + column * step_x
            page[top : top + height * scale, start : start + width * scale] = enlarged
    lines = [(text, MARGIN + row * step_y + height * scale // 2) for row, text in enumerate(texts)]
    return encode_png(_written(page, [*lines, (note, bottom + TEXT_SIZE)]).transpose(2, 0, 1))


def _written(page: NDArray[np.uint8], lines: Sequence[tuple[str, int]]) -> NDArray[np.uint8]:
    """Return a page ``[H, W, C]`` with lines of text, each with the height of its middle."""
    canvas = Image.fromarray(page[..., 0] if page.shape[2] == 1 else page)
    draw = ImageDraw.Draw(canvas)
    for text, middle in lines:
        ink = INK if page.shape[2] == 1 else (INK,) * 3
        draw.text((MARGIN, middle), text, ink, _font(), anchor="lm")
    return np.asarray(canvas).reshape(page.shape)


def _text(row: int, name: str) -> str:
    """Return what is written for a class: its name in letters that the font has, without accents, and no
    longer than there is room for; or else its number.
    """
    decomposed = unicodedata.normalize("NFKD", name)
    text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    if not text.isascii():
        return f"class {row}"
    if _length(text) <= LONGEST_TEXT:
        return text
    kept = next(n for n in range(len(text) - 1, -1, -1) if _length(f"{text[:n]}...") <= LONGEST_TEXT)
    return f"{text[:kept].rstrip()}..."


def _length(text: str) -> int:
    """Return the width of a text, in pixels."""
    return int(np.ceil(_font().getlength(text)))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT_SIZE)
