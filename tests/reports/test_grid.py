from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dpvision.images import Images
from dpvision.images.sheet import GAP, LARGEST_SIDE, LONGEST_TEXT, MARGIN, PAGE
from dpvision.reports.grid import MOST_ROWS, class_sheet, image_sheet


def page_of(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)))


def grey(count: int, side: int = 8) -> Tensor:
    return torch.arange(count, dtype=torch.uint8).mul(40).view(-1, 1, 1, 1).expand(count, 1, side, side)


def test_images_are_enlarged_by_a_whole_number_and_stand_in_rows() -> None:
    rows = torch.arange(30, dtype=torch.uint8).view(5, 3, 2, 1).expand(5, 3, 2, 3) * 8  # 3 x 2 pixels
    page = page_of(image_sheet(rows.split(3), columns=3))
    scale = 106  # (1000 - 2·12 - 3·6) / (3·3)
    height, width = 2 * scale + GAP, 3 * scale + GAP
    assert page.shape == (2 * MARGIN + 2 * height, 2 * MARGIN + 3 * width, 3)
    for index, image in enumerate(rows.permute(0, 2, 3, 1).numpy()):
        row, column = divmod(index, 3)
        top, left = MARGIN + row * height, MARGIN + column * width
        shown = page[top : top + 2 * scale, left : left + 3 * scale]
        assert np.array_equal(shown, image.repeat(scale, axis=0).repeat(scale, axis=1))
        assert (page[top + 2 * scale : top + height, left : left + width] == PAGE).all()
    assert (page[MARGIN + height :, MARGIN + 2 * width :] == PAGE).all()


@pytest.mark.parametrize("side", [8, 16, 28, 32, 64])
def test_a_sheet_is_about_a_thousand_pixels_wide(side: int) -> None:
    page = page_of(image_sheet([grey(5, side)] * 2, ("cat", "dog"), columns=10))
    assert page.ndim == 2  # grey images stay grey
    assert 700 < page.shape[1] < 1200
    large = page_of(image_sheet([grey(10, 256)], columns=10))
    assert large.shape[1] == 2 * MARGIN + 10 * (LARGEST_SIDE + GAP)  # larger ones are averaged


def test_names_stand_beside_their_rows() -> None:
    without, named = (page_of(image_sheet([grey(3)] * 2, names, columns=4)) for names in ((), ("", "dog")))
    assert (without[:, :MARGIN] == PAGE).all()
    half = named.shape[0] // 2
    left = named[:, MARGIN : MARGIN + 30]
    assert (left[:half] == PAGE).all()
    assert left[half:].min() < 100


def test_long_names_are_shortened_and_letters_that_the_font_lacks_are_not_written() -> None:
    def sheet(name: str) -> bytes:
        return image_sheet([grey(2)], (name,), columns=4)

    assert sheet("pneumonia " * 50) == sheet("pneumonia " * 60)
    assert page_of(sheet("W" * 5000)).shape[1] < 1000 + LONGEST_TEXT
    assert sheet("été") == sheet("ete")
    assert sheet("猫") == sheet("\x1b[31m\nred") == sheet("class 0")


def test_of_many_classes_the_first_are_shown_and_how_many() -> None:
    names = [f"{number}" for number in range(100)]
    page = page_of(image_sheet([grey(2)] * 100, names, columns=10))
    few = page_of(image_sheet([grey(2)] * MOST_ROWS, names[:MOST_ROWS], columns=10))
    assert page.shape[0] > few.shape[0]
    assert np.array_equal(page[: few.shape[0] - MARGIN], few[: few.shape[0] - MARGIN])
    assert page[few.shape[0] - MARGIN :].min() < 100


def test_the_first_images_of_each_class() -> None:
    labels = torch.tensor([1, 1, 0, 1])
    sheet = class_sheet(Images(grey(4), labels, ("a", "b", "none"), "made"), 2)
    assert sheet == image_sheet([grey(4)[2:3], grey(4)[:2], grey(4)[:0]], ("a", "b", "none"), columns=2)
    unlabelled = class_sheet(Images(grey(6), None, (), "made"), 2)
    assert unlabelled == image_sheet([grey(4)[:2], grey(4)[2:]], columns=2)
