"""An owner who insists gets what they ask for, marked as what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dpvision
from dpvision.cli.main import run as command
from dpvision.images import Images, open_images
from dpvision.privacy import InputError

RIDGE: dict[str, Any] = {
    "epsilon": 2, "delta": 1e-4, "method": "dp-ridge", "config": {"encoder": "pixels"},
}  # fmt: skip
MIX: dict[str, Any] = {
    "epsilon": 2, "delta": 1e-4, "method": "dp-mix-diff",
    "config": {"network": "linear", "steps": 2, "expected_batch_size": 16},
}  # fmt: skip
TESTED = "private images among the test images"
POOLED = "private images among the images of the pool"


@pytest.fixture
def digits() -> Images:
    return open_images("bundled:digits").subset(range(120))


def card_of(run: Path) -> tuple[dict[str, Any], str]:
    return json.loads((run / "release" / "card.json").read_text()), (run / "release" / "card.md").read_text()


def check_marked(run: Path, *reasons: str) -> None:
    card, text = card_of(run)
    assert card["is_private"] is False
    assert len(card["not_private_because"]) == len(reasons)
    for reason, said in zip(reasons, card["not_private_because"], strict=True):
        assert reason in said
        assert f"- {said}" in text
    assert "# NOT PRIVATE" in text
    assert "were it not for this" in text


def saved(images: Images, folder: Path) -> Path:
    """Images as a pool without labels."""
    folder.mkdir()
    for index, block in enumerate(images.take(torch.arange(len(images)))):
        Image.fromarray(block[0].numpy()).save(folder / f"{index:04}.png")
    return folder


def test_test_images_that_are_private_ones(digits: Images, tmp_path: Path) -> None:
    test = open_images("bundled:digits", "test").subset(range(20))
    with pytest.raises(InputError, match=r"^120 of the 120 test images"):
        dpvision.train(digits, test=digits, out=tmp_path / "refused", **RIDGE)
    dpvision.train(digits, test=test, out=tmp_path / "honest", allow_overlap=True, **RIDGE)
    card, text = card_of(tmp_path / "honest")
    assert (card["is_private"], card["not_private_because"]) == (True, [])
    assert "NOT PRIVATE" not in text
    result = dpvision.train(digits, test=digits, out=tmp_path / "run", allow_overlap=True, **RIDGE)
    assert result.test_accuracy is not None
    assert result.test_accuracy.total == 120
    check_marked(tmp_path / "run", TESTED)


def test_test_images_that_another_run_has_learned_from(digits: Images, tmp_path: Path) -> None:
    others = open_images("bundled:digits").subset(range(200, 260))
    dpvision.train(others, out=tmp_path / "first", **RIDGE)
    test = open_images("bundled:digits").subset(range(259, 300))
    with pytest.raises(InputError, match=r"1 of the 41 images .* are private ones"):
        dpvision.train(digits, test=test, out=tmp_path / "refused", **RIDGE)
    dpvision.train(digits, test=test, out=tmp_path / "run", allow_overlap=True, **RIDGE)
    check_marked(tmp_path / "run", TESTED)


def test_a_pool_of_private_images(digits: Images, tmp_path: Path) -> None:
    options = {**MIX, "config": {**MIX["config"], "pool": str(saved(digits, tmp_path / "pool"))}}
    with pytest.raises(InputError, match="120 of the 120 images of the pool"):
        dpvision.train(digits, out=tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()
    dpvision.train(digits, out=tmp_path / "run", allow_overlap=True, **options)
    check_marked(tmp_path / "run", POOLED)


def test_the_same_folder_with_a_seed_and_from_the_command_line(tmp_path: Path) -> None:
    for index, (pixels, label) in enumerate(digits_by_label(60)):
        path = tmp_path / "photos" / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    photos, out = str(tmp_path / "photos"), str(tmp_path / "run")
    given = [photos, "--test", photos, "--epsilon", "2", "--method", "dp-ridge", "--set", "encoder=pixels"]
    assert command(["train", *given, "--out", out]) == 2
    assert command(["train", *given, "--seed", "0", "--out", out, "--allow-overlap"]) == 0
    check_marked(tmp_path / "run", "fixed seed", TESTED)


def digits_by_label(count: int) -> list[tuple[Any, int]]:
    images = open_images("bundled:digits").subset(range(count))
    assert images.labels is not None
    return list(zip(images.take(torch.arange(count))[:, 0].numpy(), images.labels.tolist(), strict=True))


def test_an_interrupted_run_stays_marked(
    digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    pool = str(saved(digits, tmp_path / "pool"))
    options = {**MIX, "config": {**MIX["config"], "pool": pool}}
    with monkeypatch.context() as patch:
        patch.setattr("dpvision.methods.dp_mix.DPMixDiff.learn", stop)
        with pytest.raises(KeyboardInterrupt):
            dpvision.train(digits, test=digits, out=tmp_path / "run", allow_overlap=True, **options)
    dpvision.resume(tmp_path / "run", data=digits, test=digits)
    check_marked(tmp_path / "run", TESTED, POOLED)


def test_a_pool_that_another_run_learns_from_meanwhile(
    digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    others = open_images("bundled:digits").subset(range(200, 260))
    options = {**MIX, "config": {**MIX["config"], "pool": str(saved(others, tmp_path / "pool"))}}
    with monkeypatch.context() as patch:
        patch.setattr("dpvision.methods.dp_mix.DPMixDiff.learn", stop)
        for name in ("refused", "run"):
            with pytest.raises(KeyboardInterrupt):
                dpvision.train(digits, out=tmp_path / name, allow_overlap=name == "run", **options)
    dpvision.train(others, out=tmp_path / "meanwhile", **RIDGE)
    with pytest.raises(InputError, match=r"60 of the 60 images of .* are private ones"):
        dpvision.resume(tmp_path / "refused", data=digits)
    dpvision.resume(tmp_path / "run", data=digits)
    check_marked(tmp_path / "run", POOLED)
