"""Which reader gets what, the bundled digits, and the real data sets."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from dpvision.images import available_splits, open_images
from dpvision.images import stack as stack_module
from dpvision.images.conversion import Conversion
from dpvision.images.files import reading
from dpvision.images.stack import stack
from dpvision.privacy.errors import InputError


def test_digits() -> None:
    train, test = open_images("bundled:digits"), open_images("bundled:digits", "test")
    assert (len(train), len(test), train.shape) == (1437, 360, (1, 8, 8))
    assert train.class_names == tuple("0123456789")
    for images in (train, test):
        assert images.labels is not None
        shares = torch.bincount(images.labels) / len(images)
        assert 0.09 < shares.min() <= shares.max() < 0.11  # stratified
    # Together they are all of scikit-learn's images once, 0..16 spread over 0..255.
    together = torch.cat([train.pixels, test.pixels]).flatten(1)
    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, together.numpy())) == sorted(map(bytes, original))


def test_the_digits_of_all_versions_are_the_same() -> None:
    assert open_images("bundled:digits").digest.startswith("d28221035c")


def test_digits_resized_and_unlabelled() -> None:
    images = open_images("bundled:digits", "test", size=12, channels=3, labelled=False)
    assert (images.shape, images.labels) == ((3, 12, 12), None)


@pytest.mark.parametrize("spec", ["no/such/folder", "bundled:cats", "data.npz"])
def test_what_does_not_exist(spec: str) -> None:
    with pytest.raises(InputError, match=rf"{spec} does not exist.*bundled:digits"):
        open_images(spec)
    with pytest.raises(InputError, match="does not exist"):
        available_splits(spec)


def test_an_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "data.xlsx").write_text("1,2")
    with pytest.raises(InputError, match=r"data\.xlsx is no data set"):
        open_images(tmp_path / "data.xlsx")


def test_unknown_split_and_options() -> None:
    with pytest.raises(InputError, match="no split 'tset'"):
        open_images("bundled:digits", "tset")
    with pytest.raises(InputError, match="channels"):
        open_images("bundled:digits", channels=4)
    with pytest.raises(InputError, match="size"):
        open_images("bundled:digits", size=0)


@pytest.mark.parametrize("held", [2, 4, stack_module.IMAGES_PER_TASK + 4])
def test_a_source_that_states_the_wrong_number_of_images(held: int) -> None:
    items = ((f"image {i}", i) for i in range(held))
    with pytest.raises(InputError, match=r"the 3 (images )?it states"):
        stack(items, 3, lambda value, _: np.full((1, 2, 2), value, dtype=np.uint8), "here", Conversion())


def test_more_images_than_stated_of_which_the_first_are_bad() -> None:
    def make(value: int, name: str) -> np.ndarray:
        if value < 3:
            raise InputError(name)
        return np.zeros((1, 2, 2), dtype=np.uint8)

    for skip in (False, True):
        with pytest.raises(InputError, match="more than the 3 images it states"):
            stack(((f"image {i}", i) for i in range(5)), 3, make, "here", Conversion(), skip_unreadable=skip)


@pytest.mark.parametrize("slow_seconds", [-1.0, 1.0])  # with many threads, and with one
def test_images_keep_their_order_and_all_bad_ones_are_named(
    monkeypatch: pytest.MonkeyPatch, slow_seconds: float
) -> None:
    monkeypatch.setattr(stack_module, "SLOW_SECONDS", slow_seconds)
    monkeypatch.setattr(stack_module.os, "cpu_count", lambda: 4)

    def make(value: int, name: str) -> np.ndarray:
        if value in bad:
            raise InputError(name)
        return np.full((1, 2, 2), value % 256, dtype=np.uint8)

    def items(count: int) -> Iterator[tuple[str, int]]:
        return ((f"image {i}", i) for i in range(count))

    bad: tuple[int, ...] = ()
    pixels = stack(items(450), 450, make, "here", Conversion()).pixels
    assert pixels[:, 0, 0, 0].tolist() == [i % 256 for i in range(450)]
    bad = (470,)
    with pytest.raises(InputError, match=r"^image 470$"):
        stack(items(900), 900, make, "here", Conversion())
    bad = (0, 470, 650, 651)
    with pytest.raises(
        InputError, match=r"4 of the 900 images of here.*image 0; image 470; image 650; image 651; "
    ):
        stack(items(900), 900, make, "here", Conversion())
    bad = tuple(range(12))
    with pytest.raises(InputError, match=r"12 of the 900 images.* image 9; and 2 more;"):
        stack(items(900), 900, make, "here", Conversion())
    kept = [i for i in range(900) if i not in bad]
    for conversion in (Conversion(), Conversion(channels=1, size=3)):
        found = stack(items(900), 900, make, "here", conversion, skip_unreadable=True)
        assert found.pixels[:, 0, 0, 0].tolist() == [i % 256 for i in kept]
        assert found.kept.tolist() == kept
        assert [one.name for one in found.left_out] == [f"image {i}" for i in bad]
        assert found.stored is None or len(found.stored) == len(kept)
    bad = tuple(range(5))
    with pytest.raises(InputError, match="5 of the 5 images of here cannot be read"):
        stack(items(5), 5, make, "here", Conversion(), skip_unreadable=True)


@pytest.mark.filterwarnings("error")
def test_pillows_own_warning_of_large_images_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    header = b"IHDR" + struct.pack(">IIBBBBB", 9_700, 9_700, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "all" / "1.png").write_bytes(png + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    with pytest.raises(InputError, match="9700 x 9700 pixels, more than"):
        open_images(tmp_path)


@pytest.mark.parametrize(
    "error", [ValueError("It broke.\nLong story"), KeyError("x"), EOFError(), MemoryError()]
)
def test_what_a_parser_raises_becomes_one_sentence(error: Exception) -> None:
    with pytest.raises(InputError) as caught, reading("the file"):
        raise error
    assert re.fullmatch(r"the file cannot be read \([^\n]+[^.]\); it may be damaged: .*", str(caught.value))


def test_cifar10(shared_data: Path) -> None:
    images = open_images(shared_data / "cifar10", "test")
    assert (len(images), images.shape) == (5000, (3, 32, 32))
    assert images.class_names[:2] == ("airplane", "automobile")
    assert set(images.summary()["class_counts"].values()) == {500}
    # The mean colour of CIFAR-10 that everybody normalises by (0.4914, 0.4822, 0.4465), of the train images.
    mean = images.pixels.float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01, rtol=0)


def test_fashion_mnist(shared_data: Path) -> None:
    train = open_images(shared_data / "fashion-mnist")
    test = open_images(shared_data / "fashion-mnist", "test")
    assert (len(train), len(test), train.shape) == (60_000, 10_000, (1, 28, 28))
    assert set(train.summary()["class_counts"].values()) == {6000}
    assert train.pixels.float().mean().item() / 255 == pytest.approx(0.2860, abs=1e-4)  # as is well known
