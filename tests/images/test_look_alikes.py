"""That changed copies are told from other images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dpvision.images import Images, image_set, joined, open_images
from dpvision.images import look_alikes as module_of_look_alikes
from dpvision.images.image_set import Chosen
from dpvision.images.joined import Joined
from dpvision.images.look_alikes import fingerprint_look_alikes, look_alikes, warn_of_look_alikes
from dpvision.images.rows_on_disk import RowsOnDisk
from dpvision.images.sketch import SKETCH_SIZE, mirrored, sketches_of
from tests.images.on_disk import OnDisk

KEY = b"k" * 32


def smooth(count: int, seed: int = 0, channels: int = 3, side: int = 32) -> Tensor:
    """Random pictures with shapes in them, uint8 [count, channels, side, side]."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 9, 9, generator=random) * 255
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    return fine.clamp(0, 255).round().to(torch.uint8)


def set_of(pixels: Tensor, source: str = "mine") -> Images:
    return Images(pixels, None, (), source)


def changed(pixels: Tensor, change: Callable[[Image.Image], Any]) -> Tensor:
    done = [np.asarray(change(Image.fromarray(one.permute(1, 2, 0).numpy()))) for one in pixels]
    grey = done[0].ndim == 2
    return torch.stack(
        [torch.from_numpy((one[None] if grey else one.transpose(2, 0, 1)).copy()) for one in done]
    )


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75)
    return Image.open(file)


CHANGES: dict[str, Callable[[Image.Image], Any]] = {
    "jpeg": jpeg,
    "smaller": lambda image: image.resize((16, 16), Image.Resampling.BICUBIC),
    "larger": lambda image: image.resize((50, 50), Image.Resampling.BICUBIC),
    "flipped": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "flipped and jpeg": lambda image: jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "grey": lambda image: image.convert("L"),
    "darker": lambda image: np.asarray(image) // 8 * 7,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_others_not(change: str) -> None:
    private, others = smooth(200), smooth(200, seed=1)
    mixed = torch.cat([changed(private[:50], CHANGES[change]), changed(others, CHANGES[change])])
    expected = np.arange(250) < 50
    sketches, of_private = sketches_of(mixed), sketches_of(private)
    assert (look_alikes(sketches, of_private) == expected).all()
    assert (fingerprint_look_alikes(sketches, of_private, KEY) == expected).all()


def test_the_sketch_of_a_mirror_image_is_the_mirrored_sketch() -> None:
    images = smooth(20, channels=1, side=21)
    assert torch.allclose(
        sketches_of(images.flip(3)).float(), mirrored(sketches_of(images)).float(), atol=2e-3
    )


def test_a_sketch_is_of_cosines_as_by_hand() -> None:
    """Against a sum over all pixels, wave by wave."""
    image = smooth(1, channels=1, side=13)[0, 0].double().numpy()
    places = (np.arange(13) + 0.5) / 13
    waves = []
    for down in range(8):
        for across in range(8):
            wave = np.outer(np.cos(np.pi * down * places), np.cos(np.pi * across * places))
            waves.append((image * wave).sum() * np.hypot(down, across))
    expected = np.array(waves[1:]) / np.linalg.norm(waves)
    assert np.abs(sketches_of(smooth(1, channels=1, side=13))[0].numpy() - expected).max() < 2e-3


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 8), (1, 3, 40), (3, 2, 2)])
def test_flat_images_are_like_nothing(shape: tuple[int, int, int]) -> None:
    levels = torch.tensor([0, 7, 7, 255], dtype=torch.uint8)
    flat = levels[:, None, None, None].expand(4, *shape).contiguous()
    flat[2].view(-1)[0] = 8
    sketches = sketches_of(flat)
    assert sketches.shape == (4, SKETCH_SIZE)
    assert not sketches.any()
    private = torch.cat([sketches, sketches_of(smooth(50))])
    assert not look_alikes(sketches, private).any()
    assert not fingerprint_look_alikes(sketches, private, KEY).any()


def test_sketches_are_the_same_wherever_the_images_lie(tmp_path: Path) -> None:
    images = set_of(smooth(600))
    on_disk = OnDisk(tmp_path / "pixels", images)
    assert torch.equal(on_disk.sketches, images.sketches)
    assert on_disk.largest < 600
    chosen = [5, 2, 599]
    assert torch.equal(on_disk.subset(chosen).sketches, images.sketches[chosen])
    assert torch.equal(Joined([images, on_disk]).sketches, images.sketches.repeat(2, 1))


@pytest.fixture
def sketches_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (image_set, joined):
        monkeypatch.setattr(module, "MOST_OF_SKETCHES", 0)


@pytest.mark.usefixtures("sketches_in_files")
def test_sketches_of_very_many_images_are_the_same_in_a_file(caplog: pytest.LogCaptureFixture) -> None:
    def all_of(found: Tensor | RowsOnDisk) -> Tensor:
        assert isinstance(found, RowsOnDisk)
        return found.take(torch.arange(len(found)))

    images = set_of(smooth(600))
    expected = sketches_of(images.pixels)
    assert torch.equal(all_of(images.sketches), expected)
    chosen = [5, 2, 599]
    some = Chosen(images, torch.tensor(chosen), None, (), "some", None, torch.arange(3), None)
    assert torch.equal(all_of(some.sketches), expected[chosen])
    assert torch.equal(all_of(Joined([images, images]).sketches), expected.repeat(2, 1))
    copies = set_of(changed(images.pixels[:400], jpeg))
    assert look_alikes(all_of(copies.sketches), images.sketches).sum() > 380
    assert len(warnings_of(copies, images, caplog)) == 1


def test_of_very_many_images_as_many_are_looked_at_as_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = smooth(300)
    copies = set_of(torch.cat([changed(private[:100], jpeg), smooth(100, seed=1)]))
    monkeypatch.setattr(module_of_look_alikes, "MOST_LOOKED_AT", 199)
    (message,) = warnings_of(copies, set_of(private), caplog)
    assert "50 of the 100 images (mine) that were looked at, of 200, look like private images" in message


def warnings_of(images: Images, private: Images, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    warn_of_look_alikes(images, private, "images", "so what")
    return caplog.messages


def test_a_warning_counts_and_names_nothing(caplog: pytest.LogCaptureFixture) -> None:
    private = smooth(300)
    mixed = torch.cat([changed(private[:12], jpeg), smooth(100, seed=1)])
    (message,) = warnings_of(set_of(mixed, "theirs"), set_of(private), caplog)
    assert message.startswith("12 of the 112 images (theirs) look like private images of mine (resized,")
    assert warnings_of(set_of(mixed[9:]), set_of(private), caplog) == []  # three


def test_sets_that_are_alike_inside_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """A film: each image is nearly the next one."""
    first, last = smooth(2).float()
    steps = torch.linspace(0, 1, 400)[:, None, None, None]
    film = ((1 - steps) * first + steps * last).round().to(torch.uint8)
    assert warnings_of(set_of(film[1::2]), set_of(film[::2]), caplog) == []
    assert len(warnings_of(set_of(film[1::2]), set_of(torch.cat([film[:2], smooth(398)])), caplog)) == 1


def test_no_set_is_copied_more_than_once_for_its_copies_to_be_found() -> None:
    """That there are many equal images in a bucket hides no image."""
    private = smooth(20)
    copies = changed(private, jpeg).repeat(30, 1, 1, 1)
    found = look_alikes(sketches_of(copies), sketches_of(private))
    assert found.mean() > 0.9


def test_no_false_alarm_on_digits() -> None:
    private, test = (open_images("bundled:digits", split) for split in ("train", "test"))
    assert not look_alikes(test.sketches, private.sketches).any()
    assert not fingerprint_look_alikes(test.sketches, private.sketches, KEY).any()
