from __future__ import annotations

import gzip
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dpvision.images import available_splits, open_images
from dpvision.images import files as files_module
from dpvision.privacy.errors import InputError

images4 = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
labels4 = np.array([0, 1, 2, 1], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 | array.ndim, *array.shape) + array.tobytes()


def save(folder: Path, split: str, images: bytes, labels: bytes, zipped: bool = False) -> None:
    for name, content in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@settings(max_examples=30)
@given(
    pixels=arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6)),
    zipped=st.booleans(),
    data=st.data(),
)
def test_round_trip(pixels: np.ndarray, zipped: bool, data: st.DataObject) -> None:
    labels = data.draw(arrays(np.uint8, len(pixels)))
    with TemporaryDirectory() as name:
        save(Path(name), "train", idx(pixels), idx(labels), zipped)
        images = open_images(name, classes=256)
    np.testing.assert_array_equal(images.pixels.numpy(), pixels[:, None])
    assert images.labels is not None
    assert images.labels.tolist() == labels.tolist()


def test_four_files(tmp_path: Path) -> None:
    save(tmp_path, "train", idx(images4), idx(labels4), zipped=True)
    save(tmp_path, "t10k", idx(images4[:2]), idx(labels4[:2]))
    assert set(available_splits(tmp_path)) == {"train", "test"}
    assert len(open_images(tmp_path)) == 4
    test = open_images(tmp_path, "test", size=8, channels=3)
    assert (len(test), test.shape, test.class_names) == (2, (3, 8, 8), ("0", "1", "2"))


def test_the_other_spelling(tmp_path: Path) -> None:
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(images4))
    assert len(open_images(tmp_path, labelled=False)) == 4
    with pytest.raises(InputError, match=r"add train-labels"):
        open_images(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_truncated_file(tmp_path: Path, zipped: bool) -> None:
    save(tmp_path, "train", idx(images4), idx(labels4), zipped)
    path = next(tmp_path.glob("train-images*"))
    whole = path.read_bytes()
    for kept in range(len(whole)):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match="train-images-idx3-ubyte"):
            open_images(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(images4), idx(labels4[:3]), "4 images but 3 labels"),
        (idx(images4) + b"\0", idx(labels4), "does not hold the 120 bytes"),
        (idx(labels4), idx(labels4), "cannot be read|does not begin"),
        (idx(images4).replace(b"\x08", b"\x0d", 1), idx(labels4), "does not begin as IDX of unsigned bytes"),
        (idx(images4[:0]), idx(labels4[:0]), "no images"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, images: bytes, labels: bytes, message: str) -> None:
    save(tmp_path, "train", images, labels)
    with pytest.raises(InputError, match=message):
        open_images(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_header_that_claims_more_than_memory(tmp_path: Path, zipped: bool) -> None:
    save(tmp_path, "train", struct.pack(">4I", 0x0803, 2**31, 2**15, 2**15), idx(labels4), zipped)
    with pytest.raises(InputError, match="unpacked would take"):
        open_images(tmp_path)


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, "train", idx(np.zeros((1000, 100, 100), dtype=np.uint8)), idx(labels4), zipped=True)
    monkeypatch.setattr(files_module, "physical_memory", lambda: 10_000_000 - 1)
    with pytest.raises(InputError, match=r"would take .* more than"):
        open_images(tmp_path)
