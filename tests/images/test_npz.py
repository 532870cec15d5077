from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dpvision.images import Images, NoLabelsError, available_splits, image_sizes, open_images
from dpvision.images import files as files_module
from dpvision.privacy.errors import InputError

images4 = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
labels4 = np.array([0, 1, 2, 1])


def save(folder: Path, **arrays_by_name: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays_by_name)
    return path


def labels_of(images: Images) -> list[int]:
    assert images.labels is not None
    return images.labels.tolist()


@settings(max_examples=30)
@given(
    pixels=arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=6)),
    label_type=st.sampled_from([np.uint8, np.int32, np.uint64, np.int64]),
    compressed=st.booleans(),
    data=st.data(),
)
def test_round_trip(pixels: np.ndarray, label_type: type, compressed: bool, data: st.DataObject) -> None:
    labels = data.draw(arrays(label_type, len(pixels), elements=st.integers(0, 9)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        (np.savez_compressed if compressed else np.savez)(path, images=pixels, labels=labels)
        images = open_images(path, classes=10)
    np.testing.assert_array_equal(images.pixels.numpy(), pixels[:, None])
    assert labels_of(images) == labels.tolist()
    assert images.class_names == tuple("0123456789")


def test_medmnist_layout(tmp_path: Path) -> None:
    path = save(
        tmp_path,
        train_images=images4,
        train_labels=labels4[:, None],
        val_images=images4[:1],
        val_labels=np.array([[3]]),
        test_images=images4[2:],
        test_labels=labels4[2:, None],
    )
    assert available_splits(path) == ("train", "val", "test")
    assert labels_of(open_images(path)) == [0, 1, 2, 1]
    test = open_images(path, "test")
    assert labels_of(test) == [2, 1]
    # Class 3 occurs in val alone; still all splits agree on the classes.
    assert {open_images(path, s).class_names for s in ("train", "val", "test")} == {("0", "1", "2", "3")}


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_and_first(tmp_path: Path, channels: int) -> None:
    last = np.random.default_rng(0).integers(0, 256, (4, 5, 6, channels), dtype=np.uint8)
    first = last.transpose(0, 3, 1, 2)
    for stored in (last, first):
        images = open_images(save(tmp_path, images=stored, labels=labels4))
        np.testing.assert_array_equal(images.pixels.numpy(), first)


def test_size_and_channels(tmp_path: Path) -> None:
    assert open_images(save(tmp_path, images=images4, labels=labels4), size=3, channels=3).shape == (3, 3, 3)


def test_without_labels(tmp_path: Path) -> None:
    path = save(tmp_path, images=images4)
    assert open_images(path, labelled=False).labels is None
    with pytest.raises(NoLabelsError, match="'images' but no 'labels'"):
        open_images(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": images4 / 255}, r"'images' .*float64.*astype\(np\.uint8\)"),
        ({"images": images4.astype(np.int64)}, "int64, not uint8"),
        (
            {"images": np.array([np.zeros((2, 2)), np.zeros((3, 3))], dtype=object)},
            "'images' .*never unpickled",
        ),
        ({"labels": np.array(["a", "b", "c", "d"], dtype=object)}, "'labels' .*never unpickled"),
        ({"labels": labels4.astype(float)}, "float64, not integers"),
        ({"labels": np.array(["a", "b", "c", "d"])}, "not integers"),
        ({"labels": labels4[:3]}, "4 images but 3 labels"),
        ({"labels": np.eye(4, dtype=int)}, "one label per image"),
        ({"labels": np.array(3)}, "one label per image"),
        ({"labels": labels4 - 1}, "1 of the 4 labels of train are -1"),
        ({"labels": np.array([-2, 0, 1, 0])}, r"-2\.\.1"),
        ({"labels": np.array([0, 1, 2, 2**40])}, "fewer than"),
        ({"labels": np.array([0, 1, 2, 2**63], dtype=np.uint64)}, "fewer than"),
        ({"images": images4[0]}, r"shape \[5, 6\]"),
        ({"images": np.zeros((4, 5, 6, 4), dtype=np.uint8)}, r"shape \[4, 5, 6, 4\]"),
        ({"images": images4[:0], "labels": labels4[:0]}, "no images"),
        ({"class_names": np.array(["a", "b", "c"], dtype=object)}, "class names .*texts"),
        ({"class_names": np.array([7, 8, 9])}, r"'class_names' .*int64 of shape \[3\]; it must be one text"),
        ({"class_names": np.array([["a", "b", "c"]])}, r"shape \[1, 3\]; it must be one text"),
        ({"class_names": np.array(["a", "b"])}, r"labels must lie in 0\.\.1"),
        ({"class_names": np.array(["a", "b", "b"])}, "two classes have the same name"),
        ({"class_names": np.array(["a", "b", "\x1b[31m"])}, "cannot be the name of a class"),
    ],
)
def test_arrays_that_are_no_images_or_labels(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_images(save(tmp_path, **{"images": images4, "labels": labels4, **changed}))


def test_classes_have_the_names_in_the_archive(tmp_path: Path) -> None:
    names = np.array(["cat", "dog", "ant", "none of these"])
    path = save(tmp_path, images=images4, labels=labels4, class_names=names)
    found = open_images(path)
    assert (labels_of(found), found.class_names) == ([0, 1, 2, 1], tuple(names.tolist()))
    assert labels_of(open_images(path, classes="ant,cat,dog")) == [1, 2, 0, 2]
    assert open_images(path, labelled=False).class_names == ()


@pytest.mark.parametrize("name", ["class_names", "units"])
def test_texts_of_characters_that_there_are_not(tmp_path: Path, name: str) -> None:
    texts = np.array([97, 98, 99, 2**31 - 1], dtype=np.uint32).view("U1")
    with pytest.raises(InputError, match=rf"'{name}' in .* cannot be read"):
        open_images(save(tmp_path, images=images4, labels=labels4, **{name: texts}))


def test_the_folder_of_an_archive_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    save(tmp_path / "a", images=images4, labels=labels4).rename(tmp_path / "a" / "images.npz")
    for beside in ("pool.json", ".DS_Store"):
        (tmp_path / "a" / beside).write_text("{}")
    assert labels_of(open_images(tmp_path / "a")) == labels4.tolist()
    assert available_splits(tmp_path / "a") == ("train",)
    assert image_sizes(tmp_path / "a") == {(6, 5): 4}
    (tmp_path / "a" / "more.npz").write_bytes((tmp_path / "a" / "images.npz").read_bytes())
    with pytest.raises(InputError, match=r"images\.npz; .*more\.npz; give such a file itself"):
        open_images(tmp_path / "a")


def test_other_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no array 'images'.*\(it has x, y\)"):
        open_images(save(tmp_path, x=images4, y=labels4))


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'test' \(it has: train\)"):
        open_images(save(tmp_path, images=images4, labels=labels4), "test")


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    with pytest.raises(InputError, match="never unpickled"):
        open_images(save(tmp_path, images=np.array([Bomb()], dtype=object), labels=labels4))
    assert not (tmp_path / "ran").exists()


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = save(tmp_path, images=images4, labels=labels4)
    whole = path.read_bytes()
    for kept in range(0, len(whole), 37):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"data\.npz cannot be read"):
            open_images(path)


@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_damaged_byte_goes_unnoticed(position: float, flip: int) -> None:
    with TemporaryDirectory() as folder:
        path = save(Path(folder), images=images4, labels=labels4)
        content = bytearray(path.read_bytes())
        content[int(position * len(content))] ^= flip
        path.write_bytes(content)
        try:
            images = open_images(path)
        except InputError:
            return
    # The byte was one that says nothing, such as a date.
    np.testing.assert_array_equal(images.pixels.numpy(), images4[:, None])
    assert labels_of(images) == labels4.tolist()


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(
        path, images=np.zeros((1000, 100, 100), dtype=np.uint8), labels=np.zeros(1000, dtype=int)
    )
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(files_module, "physical_memory", lambda: 10_000_000 - 1)
    with pytest.raises(InputError, match=r"would take .* more than"):
        open_images(path)
