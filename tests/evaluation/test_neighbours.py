from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist

from dpvision.evaluation import image_features, nearest_neighbours, neighbours_sheet, pairs
from dpvision.images import Images
from dpvision.images.sheet import GAP, MARGIN
from dpvision.priors import build_encoder
from dpvision.privacy.errors import InputError


def images(n: int, seed: int, shape: tuple[int, int, int] = (1, 8, 8)) -> Images:
    pixels = torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return Images(pixels, None, (), f"images {seed}")


ENCODER = build_encoder("scattering", (1, 8, 8))


def test_finds_the_nearest_by_features() -> None:
    synthetic, private = images(20, 0), images(50, 1)
    chosen, nearest = nearest_neighbours(synthetic, private, ENCODER, count=4, k=3)
    x, y = (image_features(i, ENCODER).numpy() for i in (synthetic, private))
    assert nearest.tolist() == cdist(x, y)[chosen.numpy()].argsort(axis=1)[:, :3].tolist()
    assert len(set(chosen.tolist())) == 4


def test_a_copy_is_the_nearest_and_of_equals_the_first() -> None:
    private = images(30, 1)
    private.pixels[25] = private.pixels[11]
    copies = private.subset([25, 3])
    chosen, nearest = nearest_neighbours(copies, private, ENCODER, k=2)
    found = dict(zip(chosen.tolist(), nearest.tolist(), strict=True))
    assert found[0] == [11, 25]
    assert found[1][0] == 3


def test_the_seed_chooses_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic, private = images(20, 0), images(50, 1)
    first = nearest_neighbours(synthetic, private, ENCODER, seed=1)
    assert not torch.equal(nearest_neighbours(synthetic, private, ENCODER, seed=2)[0], first[0])
    monkeypatch.setattr(pairs.squared_distances, "__defaults__", (1,))
    again = nearest_neighbours(synthetic, private, ENCODER, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_each_image_and_then_its_neighbours(channels: int) -> None:
    synthetic, private = images(3, 0, (channels, 40, 50)), images(5, 1, (channels, 40, 50))
    chosen, nearest = torch.tensor([2, 0]), torch.tensor([[4, 1, 0], [3, 2, 1]])
    png = neighbours_sheet(synthetic, private, chosen, nearest)
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    scale = 5  # round((1000 - 3·12 - 4·6) / (4·50))
    height, width = 40 * scale + GAP, 50 * scale + GAP
    assert sheet.shape[:2] == (2 * MARGIN + 2 * height, 3 * MARGIN + 4 * width)
    for row, (one, others) in enumerate(zip(chosen, nearest, strict=True)):
        expected = [synthetic.pixels[one], *private.pixels[others]]
        for column, image in enumerate(expected):
            top, left = MARGIN + height * row, MARGIN * (1 + (column > 0)) + width * column
            shown = sheet[top : top + 40 * scale : scale, left : left + 50 * scale : scale]
            assert np.array_equal(shown.reshape(40, 50, channels), image.permute(1, 2, 0).numpy())
    assert png == neighbours_sheet(synthetic, private, chosen, nearest)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="k must be at least 1, not 0"):
        nearest_neighbours(images(3, 0), images(3, 1), ENCODER, k=0)
    with pytest.raises(InputError, match="count must be at least 1, not 0"):
        nearest_neighbours(images(3, 0), images(3, 1), ENCODER, count=0)
    with pytest.raises(InputError, match="with the same size and channels"):
        nearest_neighbours(images(3, 0), images(3, 1, (3, 8, 8)), ENCODER)
