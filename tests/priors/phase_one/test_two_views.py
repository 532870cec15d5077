from __future__ import annotations

import colorsys
import math
import random

import pytest
import torch
from scipy.stats import chisquare, ks_2samp, kstest
from torch import Tensor
from torch.nn import functional as F

from dpvision.priors.phase_one.two_views import CROP_TRIES, TwoViews, random_crops
from dpvision.privacy.errors import InputError

PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grayscale": 0.0, "flip": 0.0}
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}


def random_images(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def grey_of(pixel: list[float]) -> float:
    return 0.2989 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def clamped(value: float) -> float:
    return min(1.0, max(0.0, value))


def one_view(views: TwoViews, image: Tensor, u: list[float], place: int) -> Tensor:
    """One view of one image [3, H, W], step by step and pixel by pixel."""
    _, H, W = image.shape
    top, left, height, width = 0, 0, H, W
    for area, aspect, down, right in zip(*[iter(u[: 4 * CROP_TRIES])] * 4, strict=True):
        target = H * W * (views.scale[0] + (views.scale[1] - views.scale[0]) * area)
        stretch = math.exp(math.log(views.ratio[0]) + math.log(views.ratio[1] / views.ratio[0]) * aspect)
        w, h = round(math.sqrt(target * stretch)), round(math.sqrt(target / stretch))
        if 0 < w <= W and 0 < h <= H:
            top, left, height, width = int(down * (H - h + 1)), int(right * (W - w + 1)), h, w
            break
    crop = image[None, :, top : top + height, left : left + width]
    made = F.interpolate(crop, [views.size] * 2, mode="bilinear", antialias=True)[0]
    flip, *amounts, first, second, third, grayscale = u[4 * CROP_TRIES :]
    if flip < views.flip:
        made = made.flip(-1)
    pixels = made.flatten(1).T.tolist()

    strengths = [views.brightness, views.contrast, views.saturation]
    factors = [
        max(0.0, 1 - s) + (1 + s - max(0.0, 1 - s)) * a for s, a in zip(strengths, amounts[:3], strict=True)
    ]
    shift = (2 * amounts[3] - 1) * views.hue
    order = sorted(range(3), key=[first, second, third].__getitem__)
    order.insert(place % 4, 3)  # where the hue comes
    for change in order:
        mean_grey = sum(grey_of(pixel) for pixel in pixels) / len(pixels)
        for i, pixel in enumerate(pixels):
            if change == 3:
                hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
                pixels[i] = list(colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value))
            else:
                towards = (0.0, mean_grey, grey_of(pixel))[change]
                pixels[i] = [
                    clamped(factors[change] * channel + (1 - factors[change]) * towards) for channel in pixel
                ]
    if grayscale < views.grayscale:
        pixels = [[grey_of(pixel)] * 3 for pixel in pixels]
    return torch.tensor(pixels).T.view(3, views.size, views.size)


@pytest.mark.parametrize(
    ("views", "height", "width"),
    [
        (TwoViews(size=8), 12, 12),
        (TwoViews(size=5, grayscale=0.5), 20, 14),  # shrinks
        (TwoViews(size=12, hue=0.5, saturation=1.5), 7, 9),  # enlarges
        (TwoViews(size=6, scale=(0.9, 1.0), ratio=(1.5, 1.9)), 9, 9),  # candidates that do not fit
    ],
)
def test_equals_one_view_at_a_time(views: TwoViews, height: int, width: int) -> None:
    images = random_images(6, height, width)
    made = views(images, torch.Generator().manual_seed(3))
    uniforms = views.draw(6, torch.Generator().manual_seed(3)).tolist()
    expected = [one_view(views, images[i // 2] / 255, u, i) for i, u in enumerate(uniforms)]
    assert made.shape == (2, 6, 3, views.size, views.size)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.transpose(0, 1).flatten(0, 1), torch.stack(expected), atol=2e-5, rtol=0)


def test_crops_have_the_law_of_random_resized_crop() -> None:
    scale, ratio, H, W, count = (0.08, 1.0), (3 / 4, 4 / 3), 40, 40, 4000
    u = torch.rand(count, CROP_TRIES, 4, generator=torch.Generator().manual_seed(0))
    ours = torch.cat(random_crops(u, H, W, scale, ratio), dim=1)  # top, left, height, width
    rng, theirs = random.Random(0), []
    while len(theirs) < count:
        area = H * W * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w <= W and h <= H:
            theirs.append((rng.randint(0, H - h), rng.randint(0, W - w), h, w))
    reference = torch.tensor(theirs).float()
    for statistic in (
        lambda top, left, h, w: h * w,
        lambda top, left, h, w: h / w,
        lambda top, left, h, w: top / (H - h + 1),
        lambda top, left, h, w: left / (W - w + 1),
    ):
        assert ks_2samp(statistic(*ours.T), statistic(*reference.T)).pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2]).max() == H
    assert (ours[:, 1] + ours[:, 3]).max() == W


def test_a_crop_that_never_fits_is_the_whole_image() -> None:
    crops = random_crops(torch.rand(3, CROP_TRIES, 4), 8, 8, (1.0, 1.0), (2.0, 2.0))
    assert [part.flatten().tolist() for part in crops] == [[0] * 3, [0] * 3, [8] * 3, [8] * 3]


def test_factors_and_hues_are_uniform() -> None:
    count, generator = 1000, torch.Generator().manual_seed(0)
    images = torch.tensor([0.6, 0.0, 0.0]).view(1, 3, 1, 1).expand(count, 3, 2, 2)  # dark red
    brightness = TwoViews(**PLAIN | {"size": 2, "brightness": 0.5})(images, generator)[:, :, 0] / 0.6
    assert kstest(brightness[..., 0, 0].flatten(), "uniform", (0.5, 1)).pvalue > 1e-3
    made = TwoViews(**PLAIN | {"size": 2, "hue": 0.3})(images, generator)[..., 0, 0].reshape(-1, 3)
    hues = [(colorsys.rgb_to_hsv(*pixel)[0] + 0.5) % 1 - 0.5 for pixel in made.tolist()]
    assert kstest(hues, "uniform", (-0.3, 0.6)).pvalue > 1e-3


def test_flips_and_removed_colours_come_as_often_as_asked_for_and_independently() -> None:
    count = 4000
    image = torch.zeros(1, 3, 2, 2)
    image[:, 0, :, 0] = 1  # red on the left
    views = TwoViews(**PLAIN | WHOLE | {"size": 2, "flip": 0.5, "grayscale": 0.2})
    made = views(image.expand(count, 3, 2, 2), torch.Generator().manual_seed(0))
    flipped = made[:, :, 0, 0, 0] == 0  # [2, count]
    grey = made[:, :, 1].amax(dim=(2, 3)) > 0
    events = [*flipped, *grey]  # of the first view, of the second, …
    cells = torch.bincount(sum(event.long() << i for i, event in enumerate(events)), minlength=16)
    expected = [
        count * math.prod(p if cell >> i & 1 else 1 - p for i, p in enumerate([0.5, 0.5, 0.2, 0.2]))
        for cell in range(16)
    ]
    assert chisquare(cells, expected).pvalue > 1e-3


def test_with_every_change_off_the_views_are_the_image() -> None:
    images = random_images(4, 9, 9)
    made = TwoViews(**PLAIN | WHOLE | {"size": 9})(images, torch.Generator())
    torch.testing.assert_close(made, (images / 255).expand(2, 4, 3, 9, 9), atol=1e-6, rtol=0)


def test_stays_in_range_whatever_the_strength() -> None:
    views = TwoViews(size=8, brightness=3.0, contrast=3.0, saturation=3.0, hue=0.5)
    made = views(random_images(64, 16, 16), torch.Generator().manual_seed(0))
    assert made.min() == 0
    assert made.max() == 1


def test_number_format_and_memory_layout_do_not_matter() -> None:
    images = random_images(4, 16, 16)
    expected = TwoViews()(images, torch.Generator().manual_seed(0))
    for same in (images / 255, images.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(TwoViews()(same, torch.Generator().manual_seed(0)), expected)


def test_the_images_stay_as_they_were() -> None:
    images = random_images(4, 32, 32) / 255
    before = images.clone()
    TwoViews()(images, torch.Generator())
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size of a view"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (0.5, 1.1)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"contrast": -0.1}, "contrast must be at least 0, not -0.1"),
        ({"hue": 0.6}, "hue"),
        ({"flip": 1.5}, "flip is a probability"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TwoViews(**options)  # type: ignore[arg-type]


def test_grey_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"RGB images .* not of shape \[2, 1, 8, 8\]"):
        TwoViews()(torch.zeros(2, 1, 8, 8), torch.Generator())
