"""Runs warn of changed copies of private images, and not of other images."""

from __future__ import annotations

import fcntl
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dpvision
from dpvision.images import Images, open_images
from dpvision.images.indexed import indexed
from dpvision.images.look_alikes import warn_of_indexed_look_alikes
from dpvision.privacy.fingerprint import Fingerprints
from dpvision.privacy.image_index import default_index_folder
from dpvision.privacy.near import Lookup

OPTIONS: dict[str, Any] = {
    "epsilon": 2, "delta": 1e-4, "method": "dp-sgd", "seed": 0,
    "config": {"network": "linear", "steps": 4, "expected_batch_size": 16},
}  # fmt: skip


def jpeg_copies(images: Images) -> Images:
    """Compress images again, at a quality that changes their pixels and nothing that is seen."""
    copies = []
    for pixels in images.pixels:
        file = io.BytesIO()
        Image.fromarray(pixels[0].numpy()).save(file, "JPEG", quality=95)
        copies.append(torch.from_numpy(np.asarray(Image.open(file)).copy())[None])
    return Images(torch.stack(copies), images.labels, images.class_names, "copies")


def looks(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [message for message in caplog.messages if "look like" in message]
    caplog.clear()
    return found


def test_test_images_that_are_copies_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    digits = open_images("bundled:digits").subset(range(120))
    dpvision.train(digits, test=jpeg_copies(digits.subset(range(50))), out=tmp_path / "run", **OPTIONS)
    (message,) = looks(caplog)
    assert message.startswith(
        "50 of the 50 test images (copies) look like private images of bundled:digits ("
    )
    assert "the accuracy on the card would be exact on them" in message


def test_honest_test_images_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dpvision.train(
        open_images("bundled:digits"),
        test=open_images("bundled:digits", "test"),
        out=tmp_path / "run",
        **OPTIONS,
    )
    assert looks(caplog) == []


def test_copies_of_images_that_were_paid_for_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    digits = open_images("bundled:digits").subset(range(200))
    dpvision.train(digits.subset(range(100)), out=tmp_path / "first", **OPTIONS)
    dpvision.train(digits.subset(range(100)), out=tmp_path / "again", **OPTIONS)
    dpvision.train(digits.subset(range(100, 200)), out=tmp_path / "others", **OPTIONS)
    assert looks(caplog) == []
    flipped = jpeg_copies(digits.subset(range(50, 150))).pixels.flip(3)
    copies = Images(flipped, digits.labels[50:150], digits.class_names, "flipped")  # type: ignore[index]
    dpvision.train(copies, out=tmp_path / "copies", **OPTIONS)
    (message,) = looks(caplog)
    assert message.startswith("100 of the 100 images (flipped) look like private images of earlier runs (")
    assert "is not composed with this run" in message


def test_copies_are_no_public_images_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warn(images: Images) -> None:
        warn_of_indexed_look_alikes(images, indexed(images), "images", "so what")

    digits = open_images("bundled:digits").subset(range(100))
    warn(jpeg_copies(digits))
    dpvision.train(digits, out=tmp_path / "run", **OPTIONS)
    warn(open_images("bundled:digits", "test"))
    assert looks(caplog) == []
    warn(jpeg_copies(digits))
    assert len(looks(caplog)) == 1


def test_others_need_not_wait_while_copies_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    digits = open_images("bundled:digits").subset(range(100))
    dpvision.train(digits, out=tmp_path / "first", **OPTIONS)
    near, looked = Lookup.near, []

    def unlocked(lookup: Lookup, others: Fingerprints) -> Any:
        with (default_index_folder() / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is held
        looked.append(len(others))
        return near(lookup, others)

    monkeypatch.setattr(Lookup, "near", unlocked)
    dpvision.train(jpeg_copies(digits), out=tmp_path / "copies", **OPTIONS)
    assert len(looks(caplog)) == 1
    assert looked == [100, 100, 100]
