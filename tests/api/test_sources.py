"""How images are read that the user said nothing about."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dpvision
from dpvision.api.config import RunConfig, Sources
from dpvision.api.ledgers import ledger_and_images
from dpvision.api.options import PlanOptions
from dpvision.api.preparing import prepare
from dpvision.privacy import InputError

CONFIG = {"network": "linear", "steps": 4, "expected_batch_size": 10}


def write_images(
    folder: Path, sizes: list[tuple[int, int]], classes: tuple[str, ...] = ("cat", "dog"), seed: int = 0
) -> Path:
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index, (width, height) in enumerate(sizes):
            pixels = generator.integers(256, size=(height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def prepared(data: Path, test: Path | None = None, **options: object) -> tuple[RunConfig, Sources]:
    settings = {"epsilon": 2.0, "method": "dp-sgd", "config": CONFIG, "device": "cpu"}
    return prepare(data, PlanOptions.of({**settings, **options, "test": test}, data))


@pytest.mark.parametrize(
    ("sizes", "config", "expected"),
    [
        ([(20, 20)] * 10, CONFIG, (20, 20)),
        ([(64, 48)] * 10, CONFIG, (48, 64)),
        ([(20, 20)] * 9 + [(30, 40)], CONFIG, (32, 32)),
        ([(70, 90)] * 6 + [(30, 40)] * 4, CONFIG, (64, 64)),
        ([(70, 90)] * 10, {"steps": 4}, (64, 64)),
        ([(70, 90)] * 10, CONFIG, (90, 70)),  # a network named: its user knows what it takes
    ],
)
def test_the_size_when_none_is_given(
    tmp_path: Path,
    sizes: list[tuple[int, int]],
    config: dict[str, object],
    expected: tuple[int, int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = write_images(tmp_path / "data", sizes)
    with caplog.at_level(logging.INFO, "dpvision"):
        job, sources = prepared(data, config=config)
    assert sources.images.shape == (3, *expected)
    was_chosen = expected in ((32, 32), (64, 64))
    assert job.chosen_size == (expected[0] if was_chosen else None)
    assert [f"resized to {expected[0]}" in message for message in caplog.messages] == [True] * was_chosen


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("timm:vit", (90, 70)),
        ("scattering+torchvision:resnet18", (90, 70)),
        ("vgg19", (90, 70)),
        ("wrn-10-4-small", (64, 64)),
    ],
)
def test_an_encoder_that_scales_images_itself_gets_them_as_they_are(
    tmp_path: Path, encoder: str, expected: tuple[int, int]
) -> None:
    data = write_images(tmp_path / "data", [(70, 90)] * 10)
    _, sources = prepared(data, method="dp-randp", config={"encoder": encoder})
    assert sources.images.shape == (3, *expected)


def test_a_size_that_was_chosen_is_announced_recorded_and_on_the_card(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", [(20, 20)] * 9 + [(30, 40)])
    result = dpvision.train(data, epsilon=2, out=tmp_path / "run", config=CONFIG)
    assert "from which the size 32 was chosen" in (result.release / "card.md").read_text()
    assert '"size": 32' in (tmp_path / "run" / "config.json").read_text()
    # Photographs of any size are then read to fit.
    new = write_images(tmp_path / "new", [(50, 33)], classes=("dog",))
    (prediction,) = dpvision.predict(tmp_path / "run", new)
    assert prediction.name == "dog/0.png"
    assert dpvision.evaluate(tmp_path / "run", new).accuracy.total == 1


def test_the_test_split_of_the_data_is_used_if_there_is_one(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train", [(8, 8)] * 10)
    write_images(tmp_path / "data" / "test", [(8, 8)] * 3, classes=("dog",), seed=1)
    _, sources = prepared(tmp_path / "data")
    assert (len(sources.images), sources.test and len(sources.test)) == (20, 3)
    assert sources.test is not None
    assert sources.test.class_names == ("cat", "dog")
    alone = write_images(tmp_path / "alone", [(8, 8)] * 10)
    assert prepared(alone)[1].test is None


def test_test_images_of_another_place(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", [(8, 8)] * 10)
    other = write_images(tmp_path / "other", [(16, 9)] * 3)
    assert prepared(data, test=other)[1].test.pixels.shape == (6, 3, 8, 8)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="must not be tested on what it is trained on"):
        prepared(data, test=data)
    stranger = write_images(tmp_path / "stranger", [(8, 8)], classes=("cat", "emu"))
    with pytest.raises(InputError, match="emu"):
        prepared(data, test=stranger)


def test_the_ledger_is_found_by_data_run_and_file(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", [(8, 8)] * 10)
    empty = ledger_and_images(str(data))[0].summary()
    assert (empty["epsilon_spent"], empty["runs"]) == (0, [])
    dpvision.train(data, epsilon=2, out=tmp_path / "run", config=CONFIG)
    ledgers = [ledger_and_images(str(target))[0] for target in (data, tmp_path / "run", Path(empty["path"]))]
    assert len({ledger.path for ledger in ledgers}) == 1
    assert ledgers[0].summary()["epsilon_spent"] > 1.9
    with pytest.raises(InputError, match="no ledger"):
        ledger_and_images(str(tmp_path / "no.jsonl"))
