from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dpvision.evaluation.class_sheet import class_sheet
from dpvision.images import Images
from dpvision.images.sheet import GAP, MARGIN, PAGE
from dpvision.privacy.errors import InputError

NAMES = ("ape", "bee", "cat")


def flat(labels: list[int], base: int, names: tuple[str, ...] = NAMES, labelled: bool = True) -> Images:
    """Images of 64 pixels, each of one grey that says its class."""
    found = torch.tensor(labels)
    pixels = (base + 10 * found).to(torch.uint8)[:, None, None, None].expand(-1, 1, 64, 64)
    return Images(pixels.contiguous(), found if labelled else None, names if labelled else (), f"flat {base}")


def cells(png: bytes, rows: int) -> NDArray[np.uint8]:
    """The grey in the middle of each image of a sheet of 16 columns, [rows, 16]."""
    page = np.asarray(Image.open(io.BytesIO(png)))
    step = 64 + GAP
    top, left = page.shape[0] - rows * step - MARGIN, page.shape[1] - 16 * step - 2 * MARGIN
    across = [left + step * column + (MARGIN if column >= 8 else 0) + 32 for column in range(16)]
    return page[np.ix_([top + step * row + 32 for row in range(rows)], across)]


def test_a_row_is_a_class_by_name_synthetic_then_real() -> None:
    synthetic = flat([0] * 9 + [2] * 3, 10)
    real = flat([0] * 20 + [1] * 20 + [2] * 20, 100, ("cat", "bee", "ape"))
    found = cells(class_sheet(synthetic, real), 3)
    assert found[0].tolist() == [10] * 8 + [120] * 8
    assert found[1].tolist() == [PAGE] * 8 + [110] * 8  # a class that the release lacks
    assert found[2].tolist() == [30] * 3 + [PAGE] * 5 + [100] * 8


def test_without_labels_it_shows_any() -> None:
    synthetic = flat([0] * 100, 10, labelled=False)
    found = cells(class_sheet(synthetic, flat([0, 1, 2] * 40, 100)), 8)
    assert (found[:, :8] == 10).all()
    assert set(found[:, 8:].flatten().tolist()) == {100, 110, 120}


def test_the_seed_chooses() -> None:
    real = Images(torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8), None, (), "random")
    one, other, third = (class_sheet(real, real, seed=seed) for seed in (0, 0, 1))
    assert one == other
    assert one != third


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="class 'dog'"):
        class_sheet(flat([0, 1], 0), flat([0], 0, ("dog",)))
    with pytest.raises(InputError, match="no labels"):
        class_sheet(flat([0, 1], 0), flat([0], 0, labelled=False))
