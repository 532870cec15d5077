"""Groups of images beside each other; what one group looks like is tested with the sheets of classes."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dpvision.images.sheet import GAP, LINE, MARGIN, PAGE, sheet

SIDE = 64


def shown(rows: list[list[Tensor]], **texts: list[str]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(sheet(rows, **texts))))


def grey(count: int, value: int) -> Tensor:
    return torch.full((count, 1, SIDE, SIDE), value, dtype=torch.uint8)


def test_images_stand_in_rows_and_groups() -> None:
    page = shown([[grey(2, 10), grey(1, 20)], [grey(1, 30), grey(3, 40)]])
    scale = 3  # (1000 - 3·12 - 5·6) / (5·64)
    step = scale * SIDE + GAP
    second = MARGIN + 2 * step + MARGIN
    assert page.shape == (2 * MARGIN + 2 * step, second + 3 * step + MARGIN)
    for row, left, value in [
        (0, MARGIN + step, 10),
        (1, MARGIN, 30),
        (0, second, 20),
        (1, second + 2 * step, 40),
    ]:
        top = MARGIN + row * step
        assert (page[top : top + scale * SIDE, left : left + scale * SIDE] == value).all()
    assert (page[MARGIN : MARGIN + step, second + step :] == PAGE).all()  # where there are fewer
    assert (page[MARGIN + step :, MARGIN + step : second] == PAGE).all()


def test_titles_are_written_above_and_names_beside() -> None:
    rows = [[grey(2, PAGE), grey(0, 0)], [grey(0, 0), grey(2, PAGE)]]
    titled = shown(rows, titles=["synthetic", "real"])
    assert titled.shape[0] == shown(rows).shape[0] + LINE
    top, middle = MARGIN + LINE, titled.shape[1] // 2
    assert titled[:top, :middle].min() < 128
    assert titled[:top, middle:].min() < 128
    assert titled[top:].min() == PAGE
    named = shown(rows, names=["cat", "a"])
    half = named.shape[0] // 2
    assert (named[:half] < 128).sum() > (named[half:] < 128).sum() > 0


def test_groups_may_be_empty() -> None:
    assert (shown([[grey(0, 0), grey(0, 0)]]) == PAGE).all()


def test_large_images_are_averaged_and_take_no_more_room() -> None:
    generator = torch.Generator().manual_seed(0)
    large = torch.randint(256, (2, 1, 260, 1040), generator=generator, dtype=torch.uint8)
    page = shown([[large, large[:0]], [large[:1], large]])
    height, width = 28, 115  # a ninth
    assert page.shape[0] == 2 * MARGIN + 2 * (2 * height + GAP)
    found = page[MARGIN : MARGIN + 2 * height : 2, MARGIN : MARGIN + 2 * width : 2]
    assert abs(float(found.mean()) - float(large[0].float().mean())) < 1
    assert found.std() < 20, "averaged, and not some of the pixels"
