from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dpvision.images import Images, open_images
from dpvision.images.public import Overlaps, refuse_private_images
from dpvision.privacy.errors import InputError
from dpvision.views import Pool, open_pool
from dpvision.views.pool import pool_provenance

CLASSES = ("dog", "cat")  # not in alphabetical order
SHAPE = (3, 8, 8)


def pixels_of(count: int, height: int = 8, width: int = 8, seed: int = 0) -> NDArray[np.uint8]:
    """[N, H, W, 3]"""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def pixels_in(pool: Pool) -> torch.Tensor:
    """[P, C, H, W]"""
    return torch.cat(list(pool.images.blocks(2)))


def unlabelled(pixels: torch.Tensor) -> Images:
    return Images(pixels, None, (), "made")


def save(folder: Path, pixels: NDArray[np.uint8]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index:06d}.png")


def private(pixels: NDArray[np.uint8], class_names: Sequence[str] = CLASSES) -> Images:
    labels = torch.arange(len(pixels)) % len(class_names)
    return Images(
        torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), labels, tuple(class_names), "private photos"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cats, then three dogs."""
    pixels = pixels_of(5)
    save(tmp_path / "pool/cat", pixels[:2])
    save(tmp_path / "pool/dog", pixels[2:])
    return tmp_path / "pool"


def test_class_folders_in_the_order_of_the_private_classes(folder: Path) -> None:
    pool = open_pool(folder, SHAPE, CLASSES)
    assert (len(pool), pool.class_names, pool.source) == (5, CLASSES, str(folder))
    np.testing.assert_array_equal(pixels_in(pool).numpy(), pixels_of(5).transpose(0, 3, 1, 2))
    assert pool.targets.dtype == torch.float32
    assert pool.targets.tolist() == [[0, 1]] * 2 + [[1, 0]] * 3
    assert pool.provenance == {"source": folder.name}


def test_a_pool_becomes_as_the_private_images_are(folder: Path) -> None:
    assert open_pool(folder, (3, 5, 5), CLASSES).images.shape == (3, 5, 5)
    assert open_pool(folder, (1, 8, 8), CLASSES).images.shape == (1, 8, 8)
    with pytest.raises(InputError, match=r"images of 8 x 8 pixels and the private images have 6 x 8; read"):
        open_pool(folder, (3, 8, 6), CLASSES)


def test_images_that_are_not_square_may_agree(tmp_path: Path) -> None:
    save(tmp_path / "pool", pixels_of(3, height=4, width=6))
    assert open_pool(tmp_path / "pool", (3, 4, 6), CLASSES).images.shape == (3, 4, 6)


def flat_folder(path: Path, pixels: NDArray[np.uint8]) -> Path:
    save(path, pixels)
    return path


def archive(path: Path, pixels: NDArray[np.uint8]) -> Path:
    np.savez(path.with_suffix(".npz"), images=pixels)
    return path.with_suffix(".npz")


def parquet(path: Path, pixels: NDArray[np.uint8]) -> Path:
    rows = []
    for image in pixels:
        Image.fromarray(image).save(encoded := io.BytesIO(), "PNG")
        rows.append({"bytes": encoded.getvalue()})
    pq.write_table(pa.table({"image": rows}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("container", [flat_folder, archive, parquet])
def test_a_pool_without_labels_is_of_every_class_alike(container: Any, tmp_path: Path) -> None:
    pool = open_pool(container(tmp_path / "pool", pixels_of(4)), SHAPE, ["a", "b", "c", "d"])
    assert pool.targets.tolist() == [[0.25] * 4] * 4
    np.testing.assert_array_equal(pixels_in(pool).numpy(), pixels_of(4).transpose(0, 3, 1, 2))


def test_idx_files_without_labels(tmp_path: Path) -> None:
    header = np.array([0x803, 2, 3, 3], dtype=">u4").tobytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + bytes(range(18)))
    pool = open_pool(tmp_path, (1, 3, 3), CLASSES)
    assert pixels_in(pool).flatten().tolist() == list(range(18))
    assert pool.targets.tolist() == [[0.5, 0.5]] * 2


def test_the_training_split_or_the_only_one(tmp_path: Path) -> None:
    images = {"test_images": pixels_of(2), "test_labels": np.array([0, 1])}
    np.savez(tmp_path / "pool.npz", **images)
    assert len(open_pool(tmp_path / "pool.npz", SHAPE, ["0", "1"])) == 2
    images |= {"val_images": pixels_of(3), "val_labels": np.array([0, 1, 0])}
    np.savez(tmp_path / "pool.npz", **images)
    with pytest.raises(InputError, match=r"no split 'train' but val, test; keep one of them"):
        open_pool(tmp_path / "pool.npz", SHAPE, ["0", "1"])
    images |= {"train_images": pixels_of(4), "train_labels": np.array([0, 1, 0, 1])}
    np.savez(tmp_path / "pool.npz", **images)
    assert len(open_pool(tmp_path / "pool.npz", SHAPE, ["0", "1"])) == 4


def test_classes_that_do_not_agree(folder: Path) -> None:
    with pytest.raises(InputError, match=r"the pool does not go with .* class 'dog', which is not among"):
        open_pool(folder, SHAPE, ["cat"])
    with pytest.raises(
        InputError, match=r"the pool .* has no image of class 'cow', which the private images"
    ):
        open_pool(folder, SHAPE, ["cow", "dog", "cat"])


def test_a_mistake_among_labelled_images_is_not_taken_for_a_pool_without_labels(folder: Path) -> None:
    (folder / "cow").mkdir()
    with pytest.raises(InputError, match="cow is a class folder without images"):
        open_pool(folder, SHAPE, CLASSES)


def test_the_provenance_is_that_of_the_record(folder: Path) -> None:
    (folder / "pool.json").write_text('{"model": "a painter", "count": 5}')
    assert open_pool(folder, SHAPE, CLASSES).provenance == {"model": "a painter", "count": 5}
    (folder / "pool.json").write_text('{"count": 6}')
    with pytest.raises(InputError, match=r"has 5 images and not the 6 of its pool.json; complete it"):
        open_pool(folder, SHAPE, CLASSES)


def test_the_record_may_lie_three_folders_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pool.json").write_text('{"model": "a painter"}')
    within = tmp_path / "data" / "train" / "0000.parquet"
    within.parent.mkdir(parents=True)
    within.touch()
    for place in (tmp_path, within.parent, within):
        assert pool_provenance(place) == {"model": "a painter"}
    monkeypatch.chdir(tmp_path)
    assert pool_provenance("bundled:digits") == {"source": "bundled:digits"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "must hold a JSON object"),
    ],
)
def test_a_damaged_record(folder: Path, record: bytes, message: str) -> None:
    (folder / "pool.json").write_bytes(record)
    with pytest.raises(InputError, match=rf"pool\.json {message}"):
        open_pool(folder, SHAPE, CLASSES)


def test_the_digest_is_of_pixels_targets_and_class_names(folder: Path, tmp_path: Path) -> None:
    pool = open_pool(folder, SHAPE, CLASSES)
    (folder / "pool.json").write_text('{"note": "not the pool\'s identity"}')
    assert open_pool(folder, SHAPE, CLASSES).digest == pool.digest

    def changed(**parts: Any) -> str:
        return Pool(**{**vars_of(pool), **parts}).digest

    pixels = pixels_in(pool).clone()
    pixels[4, 2, 7, 7] ^= 1
    others = [
        changed(images=unlabelled(pixels)),
        changed(targets=pool.targets.flip(1)),
        changed(class_names=("dog", "tomcat")),
        changed(images=unlabelled(pixels_in(pool).reshape(5, 3, 4, 16))),
    ]
    assert len({pool.digest, *others}) == 5
    assert changed(source="elsewhere") == pool.digest


def vars_of(pool: Pool) -> dict[str, Any]:
    names = ("images", "targets", "class_names", "source", "provenance")
    return {name: getattr(pool, name) for name in names}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"targets": torch.zeros(5, dtype=torch.int64)}, r"float32 of shape \[5, 2\]"),
        ({"targets": torch.full((4, 2), 0.5)}, r"float32 of shape \[5, 2\]"),
        ({"targets": torch.full((5, 2), 0.6)}, "sum to 1"),
        ({"targets": torch.tensor([[2.0, -1.0]] * 5)}, "sum to 1"),
        ({"targets": torch.full((5, 2), torch.nan)}, "sum to 1"),
        ({"class_names": ("cat", "cat")}, "two classes have the same name"),
    ],
)
def test_parts_that_do_not_fit(parts: dict[str, Any], message: str, folder: Path) -> None:
    pool = open_pool(folder, SHAPE, CLASSES)
    with pytest.raises(InputError, match=message):
        Pool(**{**vars_of(pool), **parts})


def test_no_private_image_is_taken_for_public(folder: Path) -> None:
    pool = open_pool(folder, SHAPE, CLASSES)
    others = pixels_of(6, seed=1)
    refuse_private_images(pool.images, private(others), "images of the pool", Overlaps())
    others[3] = pixels_of(5)[4]
    with pytest.raises(InputError, match=r"^1 of the 5 images of the pool .* are among the private images"):
        refuse_private_images(pool.images, private(others), "images of the pool", Overlaps())
    others[3, 0, 0, 0] ^= 1
    refuse_private_images(pool.images, private(others), "images of the pool", Overlaps())


@pytest.mark.parametrize("container", [flat_folder, archive, parquet])
def test_the_private_data_set_itself_is_no_pool_however_it_is_stored(container: Any, tmp_path: Path) -> None:
    pool = open_pool(container(tmp_path / "pool", pixels_of(4)), SHAPE, CLASSES)
    with pytest.raises(
        InputError, match=r"^4 of the 4 images .* of private photos, which no guarantee"
    ) as raised:
        refuse_private_images(pool.images, private(pixels_of(4)), "images of the pool", Overlaps())
    assert "0000" not in str(raised.value)  # not which


def test_private_images_are_found_at_the_size_of_training(tmp_path: Path) -> None:
    large = pixels_of(4, height=20, width=30)
    save(tmp_path / "private/dog", large[:2])
    save(tmp_path / "private/cat", large[2:])
    images = open_images(tmp_path / "private", size=8, channels=1)
    pool = open_pool(tmp_path / "private", images.shape, images.class_names)
    with pytest.raises(InputError, match="4 of the 4"):
        refuse_private_images(pool.images, images, "images of the pool", Overlaps())


def test_fifty_thousand_images_take_about_a_second(folder: Path) -> None:
    pool = open_pool(folder, (3, 32, 32), CLASSES)
    images = private(pixels_of(50_000, height=32, width=32))
    began = time.thread_time()
    refuse_private_images(pool.images, images, "images of the pool", Overlaps())
    assert time.thread_time() - began < 5  # on a slow and busy machine
