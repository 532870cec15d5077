"""What is written is read again as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpvision.images import Images, open_images
from dpvision.images.folder import PROBABILITIES_FILE
from dpvision.images.write import check_formats, image_files, npz_of
from dpvision.privacy import InputError


def made(channels: int, labelled: bool) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (9, channels, 5, 4), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([2, 0, 1, 1, 2, 0, 2, 1, 0]) if labelled else None
    return Images(pixels, labels, ("cat", "bird", "ant") if labelled else (), "made")


def save(folder: Path, images: Images, format_: str) -> Path:
    for name, content in image_files(images, format_).items():  # type: ignore[arg-type]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    single = folder / f"images.{format_}"
    return single if single.exists() else folder


@pytest.mark.parametrize("format_", ["png", "npz", "parquet"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labelled", [True, False])
def test_every_format_is_read_as_it_was(tmp_path: Path, format_: str, channels: int, labelled: bool) -> None:
    images = made(channels, labelled)
    found = open_images(save(tmp_path, images, format_), labelled=labelled)
    if format_ == "npz" or not labelled:
        assert torch.equal(found.pixels, images.pixels)
        assert (found.labels is None) is not labelled
        assert found.class_names == images.class_names
    else:
        found = found.with_classes(images.class_names)
        assert images.labels is not None
        assert found.labels is not None
        expected = {
            tuple(p.flatten().tolist()): int(y) for p, y in zip(images.pixels, images.labels, strict=True)
        }
        read = {tuple(p.flatten().tolist()): int(y) for p, y in zip(found.pixels, found.labels, strict=True)}
        assert read == expected
        assert len(read) == 9


def test_numpy_alone_names_the_classes_of_an_archive(tmp_path: Path) -> None:
    with np.load(save(tmp_path, made(1, True), "npz"), allow_pickle=False) as arrays:
        names = arrays["class_names"][arrays["labels"]]
    assert names.tolist() == ["ant", "cat", "bird", "bird", "ant", "cat", "ant", "bird", "cat"]


def test_splits_with_classes_in_another_order_are_numbered_alike(tmp_path: Path) -> None:
    train, path = made(1, True), tmp_path / "x.npz"
    path.write_bytes(npz_of({"train": train, "test": train.with_classes(("ant", "bird", "cat"))}))
    found = [open_images(path, split) for split in ("train", "test")]
    assert torch.equal(found[0].labels, found[1].labels)  # type: ignore[arg-type]
    assert torch.equal(found[0].labels, train.labels)  # type: ignore[arg-type]


def test_probabilities_beside_images_are_no_image(tmp_path: Path) -> None:
    images = made(1, True)
    for name, content in image_files(images, "png", np.full((9, 3), 1 / 3, np.float32)).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert (tmp_path / PROBABILITIES_FILE).exists()
    assert len(open_images(tmp_path, labelled=False)) == len(open_images(tmp_path)) == 9


def test_formats_are_checked_before_anything_is_made() -> None:
    check_formats(["png", "npz"], ["cat"])
    check_formats(["npz"], ["a/b"])
    for formats, names, message in (
        (["gif"], [], "no format 'gif' for images; choose from png, npz, parquet"),
        ([], [], "need a format"),
        (["png"], ["a/b"], "cannot be the name of a folder"),
        (["png"], [".hidden"], "cannot be the name of a folder"),
    ):
        with pytest.raises(InputError, match=message):
            check_formats(formats, names)
