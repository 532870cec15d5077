"""Many images as one: rows of images in groups, each row with its name."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dpvision.images.encode import encode_png

WIDTH = 1000
"""The width of a sheet, in pixels, to which small images are enlarged, by whole numbers."""

LARGEST_SIDE = 128
"""The largest side of an image on a sheet, to which larger ones are averaged."""

GAP = 6  # pixels around every image
MARGIN = 12  # around the sheet, and between groups
TEXT_SIZE = 18
LINE = 2 * TEXT_SIZE
LONGEST_TEXT = 190  # pixels of a name
PAGE, INK = 232, 40  # greys: images that are black or white at their edges both stand out


def sheet(
    rows: Sequence[Sequence[Tensor]],
    names: Sequence[str] = (),
    titles: Sequence[str] = (),
    *,
    columns: Sequence[int] = (),
    note: str = "",
) -> bytes:
    """Return a PNG of rows of images, grey or RGB as these are, and empty where a row has fewer of a group.

    Args:
        rows: of each row its groups of images, uint8 ``[n, C, H, W]``, of one shape and as many groups in
            each row; n may differ and be 0.
        names: what is written beside each row, if anything; what is too long is shortened.
        titles: what is written above each group, if anything.
        columns: for how many images of a row each group has room, by default for as many as there are.
        note: what is written below, if anything.
    """
    rows = [[_shrunk(images) for images in groups] for groups in rows]
    channels, height, width = rows[0][0].shape[1:]
    columns = columns or [max(map(len, of_rows)) for of_rows in zip(*rows, strict=True)]
    texts = [_text(name, f"class {row}") for row, name in enumerate(names)]
    left = MARGIN + (max(map(_length, texts)) + MARGIN if texts else 0)
    top = MARGIN + (LINE if titles else 0)
    count = max(1, sum(columns))
    scale = max(1, round((WIDTH - left - len(columns) * MARGIN - count * GAP) / (count * width)))
    step_y, step_x = height * scale + GAP, width * scale + GAP
    begins = [left + sum(columns[:group]) * step_x + group * MARGIN for group in range(len(columns))]
    bottom = top + len(rows) * step_y
    right = begins[-1] + columns[-1] * step_x
    page = np.full((bottom + MARGIN + (LINE if note else 0), right + MARGIN, channels), PAGE, dtype=np.uint8)
    for row, groups in enumerate(rows):
        for begin, images in zip(begins, groups, strict=True):
            for column, image in enumerate(images.cpu().numpy()):
                enlarged = image.repeat(scale, axis=1).repeat(scale, axis=2).transpose(1, 2, 0)
                y, x = top + row * step_y, begin + column * step_x
                page[y : y + height * scale, x : x + width * scale] = enlarged
    lines = [(MARGIN, top + row * step_y + height * scale // 2, text) for row, text in enumerate(texts)]
    lines += [(begin, MARGIN + TEXT_SIZE // 2, title) for begin, title in zip(begins, titles, strict=False)]
    lines += [(MARGIN, bottom + TEXT_SIZE, note)] if note else []
    return encode_png(_written(page, lines).transpose(2, 0, 1))


def _shrunk(images: Tensor) -> Tensor:
    """Return images no larger than there is room for on a sheet, averaged."""
    factor = -(-max(images.shape[2:]) // LARGEST_SIDE)
    height, width = (max(1, side // factor) for side in images.shape[2:])
    if factor == 1 or not len(images):
        return images[:, :, :height, :width]  # of no image, the shape of others
    return F.adaptive_avg_pool2d(images.float(), (height, width)).round().byte()


def _written(page: NDArray[np.uint8], lines: Sequence[tuple[int, int, str]]) -> NDArray[np.uint8]:
    """Return a page ``[H, W, C]`` with lines of text: where each begins, and the height of its middle."""
    canvas = Image.fromarray(page[..., 0] if page.shape[2] == 1 else page)
    draw = ImageDraw.Draw(canvas)
    for begin, middle, text in lines:
        ink = INK if page.shape[2] == 1 else (INK,) * 3
        draw.text((begin, middle), text, ink, _font(), anchor="lm")
    return np.asarray(canvas).reshape(page.shape)


def _text(name: str, otherwise: str) -> str:
    """Return what is written for a name: it in letters that the font has, without accents, and no longer than
    there is room for; or what to write otherwise.
    """
    decomposed = unicodedata.normalize("NFKD", name)
    text = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    if not text.isascii() or (text and not text.isprintable()):
        return otherwise
    if _length(text) <= LONGEST_TEXT:
        return text
    most = min(len(text) - 1, LONGEST_TEXT)  # no letter is narrower than a pixel
    kept = next(n for n in range(most, -1, -1) if _length(f"{text[:n]}...") <= LONGEST_TEXT)
    return f"{text[:kept].rstrip()}..."


def _length(text: str) -> int:
    """Return the width of a text, in pixels."""
    return int(np.ceil(_font().getlength(text)))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT_SIZE)
