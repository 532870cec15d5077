"""CIFAR's archives, binary and pickled, as their page describes them; and pickles that would run code."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpvision.images import available_splits, image_sizes, open_images
from dpvision.privacy.errors import InputError

random = np.random.default_rng(0)
PIXELS = random.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
FINE, COARSE = [3, 0, 1, 2, 3, 0, 1, 2, 3, 1, 2, 0], [1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0]
NAMES, KINDS = ["ant", "bee", "cow", "dog"], ["insect", "beast"]


def binary(columns: Sequence[Sequence[int]], rows: slice) -> bytes:
    labels = np.array(columns, dtype=np.uint8).T
    return np.hstack([labels, PIXELS.reshape(12, -1)])[rows].tobytes()


def pickled(labels: dict[str, Sequence[int]], rows: slice, protocol: int) -> bytes:
    data: dict[Any, Any] = {"data": PIXELS.reshape(12, -1)[rows].copy(), "batch_label": "some"}
    return pickle.dumps({**data, **{name: list(found)[rows] for name, found in labels.items()}}, protocol)


def parts(index: int) -> slice:
    return slice(2 * index, 2 * index + 2)


def ten(place: Path, form: str) -> Path:
    suffix = ".bin" if form == "binary" else ""
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = (
            binary([FINE], parts(index))
            if form == "binary"
            else pickled({"labels": FINE}, parts(index), int(form))
        )
        (place / f"{name}{suffix}").write_bytes(content)
    if form == "binary":
        (place / "batches.meta.txt").write_text("\n".join([*NAMES, "", ""]))
    else:
        (place / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}, int(form)))
    (place / "readme.html").write_text("a page")
    return place


def hundred(place: Path, form: str) -> Path:
    for split, rows in (("train", slice(0, 10)), ("test", slice(10, 12))):
        labels = {"fine_labels": FINE, "coarse_labels": COARSE}
        if form == "binary":
            (place / f"{split}.bin").write_bytes(binary([COARSE, FINE], rows))
        else:
            (place / split).write_bytes(pickled(labels, rows, int(form)))
    if form == "binary":
        (place / "fine_label_names.txt").write_text("\n".join(NAMES))
        (place / "coarse_label_names.txt").write_text("\n".join(KINDS))
    else:
        names = {"fine_label_names": NAMES, "coarse_label_names": KINDS}
        (place / "meta").write_bytes(pickle.dumps(names, int(form)))
    return place


@pytest.mark.parametrize("archive", [ten, hundred])
@pytest.mark.parametrize("form", ["binary", "2", "4"])
def test_archives_as_they_are_downloaded(tmp_path: Path, archive: Any, form: str) -> None:
    place = archive(tmp_path, form)
    assert available_splits(place) == ("train", "test")
    assert image_sizes(place) == {(32, 32): 10}
    for split, rows in (("train", slice(0, 10)), ("test", slice(10, 12))):
        images = open_images(place, split)
        np.testing.assert_array_equal(images.pixels.numpy(), PIXELS[rows])
        assert images.class_names == tuple(NAMES)
        assert images.labels is not None
        assert images.labels.tolist() == FINE[rows]
    assert open_images(place, labelled=False).labels is None
    assert open_images(place, size=8, channels=1).shape == (1, 8, 8)


@pytest.mark.parametrize("form", ["binary", "2"])
def test_coarse_labels_by_name(tmp_path: Path, form: str) -> None:
    images = open_images(hundred(tmp_path, form), label_column="coarse_labels")
    assert images.class_names == tuple(KINDS)
    assert images.labels is not None
    assert images.labels.tolist() == COARSE[:10]
    with pytest.raises(InputError, match="no column 'age'"):
        open_images(tmp_path, label_column="age")


def test_texts_of_python_2(tmp_path: Path) -> None:
    """As the archives that one downloads have them: keys and names are bytes."""
    ten(tmp_path, "2")
    for file in [*tmp_path.glob("data_batch_*"), tmp_path / "test_batch", tmp_path / "batches.meta"]:
        found = pickle.loads(file.read_bytes())
        old = {
            key.encode(): [one.encode() for one in value] if key == "label_names" else value
            for key, value in found.items()
        }
        file.write_bytes(pickle.dumps(old, 2))
    assert open_images(tmp_path).class_names == tuple(NAMES)


def test_a_missing_batch(tmp_path: Path) -> None:
    (ten(tmp_path, "binary") / "data_batch_4.bin").unlink()
    with pytest.raises(InputError, match=r"lacks data_batch_4\.bin of train"):
        open_images(tmp_path)


def test_names_may_be_missing(tmp_path: Path) -> None:
    (ten(tmp_path, "2") / "batches.meta").unlink()
    assert open_images(tmp_path).class_names == ("0", "1", "2", "3")
    assert open_images(tmp_path, classes=",".join(NAMES)).class_names == tuple(NAMES)


class Attack:
    """What runs code where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_no_code_of_a_pickle_is_run(tmp_path: Path) -> None:
    ten(tmp_path, "2")
    for file in (tmp_path / "data_batch_1", tmp_path / "batches.meta"):
        whole = file.read_bytes()
        for protocol in (0, 2, 4):
            file.write_bytes(pickle.dumps({"data": Attack(tmp_path / "ran")}, protocol))
            with pytest.raises(InputError, match="which no such file holds"):
                open_images(tmp_path)
        file.write_bytes(whole)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [0, 1]}),
        pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, "x"]}),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, [1]]}),
        pickle.dumps({"labels": [0, 1]}),
        b"\x80\x04}r\xff\xff\xff\x7f.",  # an object under the number 2^31
        b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",  # so many bytes
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",
    ],
)
def test_pickles_of_something_else(tmp_path: Path, content: bytes) -> None:
    (ten(tmp_path, "2") / "data_batch_1").write_bytes(content)
    with pytest.raises(InputError, match="data_batch_1"):
        open_images(tmp_path)


def test_a_cut_binary_file(tmp_path: Path) -> None:
    file = ten(tmp_path, "binary") / "data_batch_1.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"no multiple of 3073"):
        open_images(tmp_path)
