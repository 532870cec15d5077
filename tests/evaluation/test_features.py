from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpvision.evaluation import image_features
from dpvision.images import Images
from dpvision.networks import Normalize
from dpvision.priors import Encoder, build_encoder
from dpvision.privacy.errors import InputError


def images(n: int, shape: tuple[int, int, int] = (3, 8, 8)) -> Images:
    pixels = torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Images(pixels, None, (), "some photos")


class BrightPixelsOverflow(Encoder):
    """A feature of one image is not finite: the one with 255 in its corner."""

    def __init__(self) -> None:
        super().__init__(1, {"name": "fragile", "image_shape": [3, 8, 8], "provenance": {}})

    def forward(self, x: Tensor) -> Tensor:
        corner = x[:, 0, 0, :1]
        return 1 / (corner - Normalize()(torch.tensor(255, dtype=torch.uint8)))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_are_the_encoders_of_normalised_pixels(batch_size: int) -> None:
    encoder, photos = build_encoder("random-wrn-10-1", (3, 8, 8)), images(10)
    progress: list[tuple[str, int, int]] = []
    found = image_features(
        photos, encoder, batch_size=batch_size, progress=lambda *args: progress.append(args)
    )
    expected = encoder((photos.pixels.float() / 255 - 0.5) / 0.25)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not found.requires_grad
    assert progress[-1] == ("features by random-wrn-10-1", 10, 10)
    assert len(progress) == -(-10 // batch_size)


def test_features_that_are_not_finite_are_refused_by_image() -> None:
    photos = images(10)
    photos.pixels[:, 0, 0, 0] = 7
    photos.pixels[6, 0, 0, 0] = 255
    with pytest.raises(InputError, match="fragile gives no finite features of image 6 of some photos"):
        image_features(photos, BrightPixelsOverflow(), batch_size=4)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"built for images of shape \[3, 8, 8\], and some photos has"):
        image_features(images(2, (1, 8, 8)), build_encoder("scattering", (3, 8, 8)))
