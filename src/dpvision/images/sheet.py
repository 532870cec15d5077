"""Many images as one: rows of images in groups, each row with its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dpvision.images.encode import encode_png
from dpvision.images.text import written_out

if TYPE_CHECKING:
    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SMALLEST_SIDE = 64
"""The side, in pixels, of an image on the sheet; smaller ones are enlarged by a whole number."""

GAP = 2
BETWEEN_GROUPS = 4
WHITE = 255
LETTERS = 16
LINE = 20
"""The size of letters, and the height of a line with what hangs below it, in pixels."""

LONGEST = 24
"""The most letters of a name; longer ones end in dots."""


def sheet(rows: Sequence[Sequence[Tensor]], names: Sequence[str] = (), titles: Sequence[str] = ()) -> bytes:
    """Return a PNG of rows of images, white where a row has fewer of a group than another.

    Args:
        rows: of each row its groups of images, uint8 ``[n, C, H, W]``, of one shape and as many groups in
            each row; n may differ and be 0.
        names: of the rows, to the left of them; none by default.
        titles: of the groups, above them; none by default.
    """
    _, height, width = rows[0][0].shape[1:]
    scale = -(-SMALLEST_SIDE // min(height, width))
    cell = (height * scale + GAP, width * scale + GAP)
    font = ImageFont.load_default(LETTERS)
    names, titles = ([_short(text) for text in texts] for texts in (names, titles))
    top = LINE + 2 * GAP if titles else 0
    left = max((_length(font, name) + 2 * GAP for name in names), default=0)
    begins = []  # of each group
    end = left + GAP
    for group, of_rows in enumerate(zip(*rows, strict=True)):
        begins.append(end + (BETWEEN_GROUPS if group else 0))
        end = begins[-1] + max(map(len, of_rows)) * cell[1]
    page = np.full((top + len(rows) * cell[0] + GAP, end, 3), WHITE, dtype=np.uint8)
    for row, groups in enumerate(rows):
        for begin, images in zip(begins, groups, strict=True):
            for column, image in enumerate(images.cpu()):
                enlarged = image.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
                y, x = top + GAP + row * cell[0], begin + column * cell[1]
                # Grey becomes RGB.
                page[y : y + cell[0] - GAP, x : x + cell[1] - GAP] = enlarged.permute(1, 2, 0).numpy()
    middle = (cell[0] - LINE) // 2
    texts = [(GAP, top + row * cell[0] + middle, name) for row, name in enumerate(names)]
    texts += [(begin, GAP, title) for begin, title in zip(begins, titles, strict=False)]
    return encode_png(_written(page, texts, font).transpose(2, 0, 1))


def _short(text: str) -> str:
    text = written_out(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _length(font: Font, text: str) -> int:
    return int(np.ceil(font.getlength(text)))


def _written(page: NDArray[np.uint8], texts: Sequence[tuple[int, int, str]], font: Font) -> NDArray[np.uint8]:
    """Write texts on a page ``[H, W, 3]``, each below and to the right of its place (x, y)."""
    if not texts:
        return page
    image = Image.fromarray(page)
    pen = ImageDraw.Draw(image)
    for x, y, text in texts:
        pen.text((x, y), text, fill=(0, 0, 0), font=font)
    return np.asarray(image)
