"""A run on released images says what is guaranteed of the private ones that these were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.images import Images, open_images

FIRST = "the private images that those of this run were made of"
DELTA = 1e-3
RIDGE: dict[str, Any] = {"epsilon": 50.0, "method": "dp-ridge", "config": {"encoder": "pixels"}}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Returns a run of synthesize."""
    return synthesize(private_images(), tmp_path / "first")


def private_images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (90, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(90) % 2, ("left", "right"), "made")


def synthesize(images: Any, out: Path, **options: Any) -> Path:
    dpvision.synthesize(
        images, epsilon=1.0, delta=DELTA, count=20, balanced=True, config={"rank": 5}, out=out, **options
    )
    return out


def said(run: Path) -> list[str]:
    """Returns the sentences of a card; the same are in its text and in guarantee.json."""
    folder = run / "release"
    found = [one for one in json.loads((folder / "card.json").read_text())["not_covered"] if FIRST in one]
    assumed = json.loads((folder / "guarantee.json").read_text())["assumed"]
    for one in found:
        assert one in (folder / "card.md").read_text()
        assert one in (folder / "card.html").read_text()
        assert f"not covered: {one}" in [each["says"] for each in assumed]
    return found


def test_the_card_of_a_classifier(release: Path, tmp_path: Path) -> None:
    epsilon = json.loads((release / "release" / "card.json").read_text())["epsilon"]
    states = (
        f"{FIRST}: their release states epsilon {epsilon:.6g} and delta 0.001 for each image, which holds"
    )
    dpvision.sample(release, out=tmp_path / "drawn", count=40)
    sources = (release, release / "release", tmp_path / "drawn", open_images(release))
    for number, data in enumerate(sources):
        dpvision.train(data, out=tmp_path / f"run{number}", **RIDGE)
        (sentence,) = said(tmp_path / f"run{number}")
        assert sentence.startswith(states)
        assert dpvision.verify(tmp_path / f"run{number}").holds


def test_the_card_of_a_release_of_a_release(release: Path, tmp_path: Path) -> None:
    assert len(said(synthesize(release, tmp_path / "second"))) == 1


def test_private_images_have_no_such_sentence(release: Path, tmp_path: Path) -> None:
    assert not said(release)
    dpvision.train(private_images(), out=tmp_path / "run", **RIDGE)
    assert not said(tmp_path / "run")


def test_a_release_that_is_not_private(tmp_path: Path) -> None:
    first = synthesize(private_images(), tmp_path / "first", seed=1)
    dpvision.train(first, out=tmp_path / "run", **RIDGE)
    assert said(tmp_path / "run") == [
        f"{FIRST}: the run that released these is NOT PRIVATE, and protects none of them"
    ]


def test_a_run_that_was_interrupted(release: Path, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int, account: object) -> None:
        if done == 1:
            raise KeyboardInterrupt

    config = {"network": "linear", "steps": 2, "expected_batch_size": 10}
    with pytest.raises(KeyboardInterrupt):
        dpvision.train(
            release, epsilon=50.0, method="dp-sgd", config=config, out=tmp_path / "run", progress=interrupt
        )
    dpvision.resume(tmp_path / "run")
    assert len(said(tmp_path / "run")) == 1
