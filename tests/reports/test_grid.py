from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from dpvision.reports.grid import GAP, image_grid


def test_images_go_row_by_row_with_white_between_and_behind() -> None:
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 6) * 40
    page = np.asarray(Image.open(io.BytesIO(image_grid(pixels, columns=3))))
    assert page.shape == (2 * (4 + GAP) + GAP, 3 * (6 + GAP) + GAP, 3)
    for index in range(5):
        row, column = divmod(index, 3)
        top, left = GAP + row * (4 + GAP), GAP + column * (6 + GAP)
        assert (page[top : top + 4, left : left + 6] == 40 * index).all()
        assert (page[top + 4 : top + 4 + GAP, left : left + 6] == 255).all()
    assert (page[GAP + 4 + GAP :, 2 * (6 + GAP) :] == 255).all()


def test_grey_images_stay_grey() -> None:
    page = Image.open(io.BytesIO(image_grid(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), columns=2)))
    assert page.mode == "L"
