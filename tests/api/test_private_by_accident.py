"""What a careless print, or another user of the machine, gets to see: nothing private."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dpvision
from dpvision.api.config import Sources
from dpvision.evaluation.mislabelled import MislabelledImages
from dpvision.gradients.clipped import ClippedSum
from dpvision.images import Images, open_images
from dpvision.images.joined import Joined
from dpvision.privacy import Budget, Ledger, SeededRandom, default_ledger_path
from dpvision.runs.files import write_atomically
from dpvision.training import Batch

CONFIG = {"network": "linear", "steps": 2, "expected_batch_size": 8}


@pytest.fixture
def images(tmp_path: Path) -> Images:
    for index in range(24):
        path = tmp_path / "photos" / ("ill", "healthy")[index % 2] / f"smith-john-{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 177 + index, np.uint8)).save(path)
    return open_images(tmp_path / "photos")


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_images_are_printed_without_pixels_names_or_labels(images: Images) -> None:
    assert repr(images) == "<Images: 24 of 1×8×8, 2 classes>"
    labels = images.labels
    assert labels is not None
    holders = [
        images,
        images.subset([3, 1]),
        Joined([images, images]),
        Batch(images, torch.arange(24), labels, images.ids),
        MislabelledImages.of(images, 20, SeededRandom(0)),
        Sources(images, images),
        ClippedSum({"w": torch.full((3,), 177.0)}, norms=labels, losses=labels, nonfinite=0),
    ]
    for holder in holders:
        for text in (repr(holder), str(holder)):
            assert not any(word in text for word in ("tensor", "177", "smith", "healthy", "photos")), text


def test_what_is_private_is_for_the_owner_alone_whatever_the_umask(
    images: Images, tmp_path: Path, umask: int
) -> None:
    dpvision.train(images, epsilon=2, delta=1e-3, method="dp-sgd", config=CONFIG, out=tmp_path / "run")
    run, ledger = tmp_path / "run", default_ledger_path(images.digest)
    private = [path for path in (run / "private").rglob("*") if path.is_file()]
    assert {"run.json", "metrics.jsonl", "learned.safetensors"} <= {path.name for path in private}
    for path in [*private, run / "config.json", ledger]:
        assert mode(path) == 0o600, path
    assert mode(run / "private") == mode(ledger.parent) == 0o700
    for path in (run / "release").iterdir():
        assert mode(path) == 0o666 & ~umask  # to be published


def test_a_ledger_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger.for_dataset(path, "ab" * 32, 100)
    path.chmod(0o644)
    Ledger(path).set_limit(Budget(1.0, 1e-5))
    assert mode(path) == 0o600
    assert mode(tmp_path) == mode(tmp_path.parent)  # a folder of somebody's own is left as it is


def test_a_file_that_was_left_half_written_is_not_readable_by_others(tmp_path: Path) -> None:
    left = tmp_path / ".secret.partial"
    left.write_bytes(b"old")
    left.chmod(0o644)
    write_atomically(tmp_path / "secret", b"new")
    assert (tmp_path / "secret").read_bytes() == b"new"
    assert mode(tmp_path / "secret") == 0o600


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
