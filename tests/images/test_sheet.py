from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dpvision.images.sheet import sheet


def shown(rows: list[list[Tensor]], **texts: list[str]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(sheet(rows, **texts))))


def grey(count: int, value: int, side: int = 64) -> Tensor:
    return torch.full((count, 1, side, side), value, dtype=torch.uint8)


def test_images_stand_in_rows_and_groups() -> None:
    page = shown([[grey(2, 10), grey(1, 20)], [grey(1, 30), grey(3, 40)]])
    assert page.shape == (2 * 66 + 2, 2 + 2 * 66 + 4 + 3 * 66, 3)
    for row, (group, column, value) in enumerate([(0, 1, 10), (0, 0, 30)]):
        top, left = 2 + 66 * row, 2 + 66 * column + group
        assert (page[top : top + 64, left : left + 64] == value).all()
    second = 2 + 2 * 66 + 4
    assert (page[2:66, second : second + 64] == 20).all()
    assert (page[68:132, second + 132 : second + 196] == 40).all()
    assert (page[2:66, second + 66 :] == 255).all()  # where there are fewer
    assert (page[68:132, 68:second] == 255).all()


@pytest.mark.parametrize(("side", "scale"), [(8, 8), (28, 3), (64, 1), (100, 1)])
def test_small_images_are_enlarged_by_a_whole_number(side: int, scale: int) -> None:
    pixels = torch.randint(256, (1, 3, side, side), dtype=torch.uint8)
    page = shown([[pixels]])
    assert page.shape == (side * scale + 4, side * scale + 4, 3)
    found = page[2 : 2 + side * scale : scale, 2 : 2 + side * scale : scale]
    assert np.array_equal(found, pixels[0].permute(1, 2, 0).numpy())


def test_names_and_titles_are_written_where_no_image_is() -> None:
    rows = [[grey(2, 128), grey(0, 0)], [grey(0, 0), grey(2, 128)]]
    plain, named = shown(rows), shown(rows, names=["cat", "a"], titles=["synthetic", "real"])
    left = named.shape[1] - plain.shape[1]
    top = named.shape[0] - plain.shape[0]
    assert left > 20
    assert top == 24
    assert np.array_equal(named[top:, left:], plain)
    for text in (named[top : top + 66, :left], named[top + 66 :, :left], named[:top, left:]):
        assert (text < 128).any()
    assert (named[top : top + 66, :left] < 128).sum() > (named[top + 66 :, :left] < 128).sum()


def test_long_and_acting_names_do_no_harm() -> None:
    rows = [[grey(1, 0)]] * 2
    page = shown(rows, names=["x" * 1000, "\x1b[31m\nred"])
    assert page.shape[1] < 600
    assert page.shape[0] == 2 * 66 + 2
