"""An accuracy is published exactly, so it is never of a private image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dpvision
from dpvision.images import Images, open_images
from dpvision.privacy import InputError, default_ledger_path

OPTIONS: dict[str, Any] = {
    "epsilon": 2, "delta": 1e-4, "method": "dp-sgd", "seed": 0,
    "config": {"network": "linear", "steps": 4, "expected_batch_size": 16},
}  # fmt: skip


@pytest.fixture
def digits() -> Images:
    return open_images("bundled:digits").subset(range(120))


@pytest.fixture
def folder(digits: Images, tmp_path: Path) -> Path:
    assert digits.labels is not None
    for index, (pixels, label) in enumerate(zip(digits.pixels, digits.labels.tolist(), strict=True)):
        path = tmp_path / "photos" / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy()).save(path)
    return tmp_path / "photos"


def refused(data: Any, test: Any, out: Path, match: str = "are among the private images of") -> None:
    with pytest.raises(InputError, match=match):
        dpvision.train(data, test=test, out=out, **OPTIONS)
    assert not out.exists()
    images = data if isinstance(data, Images) else open_images(data)
    assert not default_ledger_path(images.digest).exists()


def test_images_are_not_tested_on_that_are_trained_on(digits: Images, tmp_path: Path) -> None:
    assert digits.labels is not None
    others = open_images("bundled:digits", "test").subset(range(30))
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    labels = (digits.labels + 1) % 10
    for test in (
        digits,
        digits.subset(order),
        digits.subset([7]),
        Images(digits.pixels, labels, digits.class_names, "other labels"),
        Images(
            torch.cat([others.pixels, digits.pixels[-1:]]),
            torch.zeros(31, dtype=torch.int64),
            digits.class_names,
            "one of them, the last",
        ),
    ):
        refused(digits, test, tmp_path / "run")


def test_nor_by_another_way_to_the_same_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    copied = tmp_path / "copied" / "7"
    copied.mkdir(parents=True)
    path = next((folder / "7").iterdir())
    Image.open(path).save(copied / "other-name.bmp")
    for test in (tmp_path / "link", folder.parent / "link" / ".." / "photos", copied.parent):
        refused(folder, test, tmp_path / "run", "are among the private images|must not be tested on what")


def test_test_images_are_not_changed_for_private_ones_on_the_way(
    digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has learned needs no private image any more, and so could not compare them."""
    test = open_images("bundled:digits", "test")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dpvision.methods.dp_sgd.DPSGD.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            dpvision.train(digits, test=test, out=tmp_path / "run", **OPTIONS)
    with pytest.raises(InputError, match=r"the test images in .* have changed; restore them"):
        dpvision.resume(tmp_path / "run", test=digits)
    result = dpvision.resume(tmp_path / "run", test=test)
    assert result.test_accuracy is not None  # type: ignore[union-attr]
    assert result.test_accuracy.total == 360  # type: ignore[union-attr]
