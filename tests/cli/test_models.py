"""dpvision evaluate and predict: what they show, and what they write."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from dpvision.cli.main import run
from dpvision.images import Images
from dpvision.privacy import InputError

FAST = ["--set", "network=linear", "--set", "steps=20", "--set", "expected_batch_size=30"]


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def two_kinds(folder: Path, count: int = 30, seed: int = 0) -> Path:
    """A folder of dark and bright images, of classes whose names CSV and spreadsheets may mistake."""
    random = np.random.default_rng(seed)
    for name, brightness in (("name", 0), ("=1+1, ok", 120)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(brightness, brightness + 130, size=(8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def binary_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    out, data = tmp_path / "run", two_kinds(tmp_path / "data")
    assert run(["train", str(data), "--epsilon", "20", "--out", str(out), *FAST]) == 0
    assert "test accuracy  not measured" in capsys.readouterr().out
    return out


def test_evaluate_shows_every_figure(
    binary_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = str(two_kinds(tmp_path / "test", 10, seed=1))
    assert run(["evaluate", str(binary_run), test]) == 0
    text = capsys.readouterr().out
    for name in ("accuracy", "of always", "balanced accuracy", "AUC", "calibration error", "log loss"):
        assert name in text
    assert "of 'name' from probability 0.5" in text  # classes are in the order of their names
    assert "publish" in text
    assert run(["evaluate", str(binary_run), test, "--json"]) == 0
    found = last_line(capsys)
    assert found["classes"] == ["=1+1, ok", "name"]
    assert found["publishing"]["in_a_release"] == ["accuracy"]
    given = [*("--positive", "=1+1, ok"), *("--threshold", "0")]
    assert run(["evaluate", str(binary_run), test, *given, "--json"]) == 0
    at = last_line(capsys)["at_threshold"]
    assert (at["positive"], at["threshold"]) == ("=1+1, ok", 0)
    assert (at["sensitivity"]["value"], at["specificity"]["value"]) == (1, 0)
    assert run(["evaluate", str(binary_run), str(tmp_path / "test" / "name" / "0.png")]) == 2


def test_predict_has_a_column_for_each_class_whatever_its_name(
    binary_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(binary_run), str(two_kinds(tmp_path / "test", 3, seed=1))]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert list(rows[0]) == ["name", "class", "probability", "p(=1+1, ok)", "p(name)", "error"]
    for row in rows:
        first, second = float(row["p(=1+1, ok)"]), float(row["p(name)"])
        assert first + second == pytest.approx(1, abs=1e-5)
        assert row["class"] == ("name" if second > first else "=1+1, ok")
        assert float(row["probability"]) == max(first, second)


def test_images_of_another_size_are_told_of(
    binary_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    sizes = [(8, 8), (20, 30), (20, 30), (9, 9), (10, 10), (11, 11)]
    for index, size in enumerate(sizes):
        Image.new("L", size).save(new / f"{index}.png")
    assert run(["predict", str(binary_run), str(new)]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1 + len(sizes)
    (line,) = captured.err.splitlines()
    assert line.startswith("5 of 6 images are of another size than those that the model learned from, 8×8:")
    assert "20×30 (2), 9×9 (1), 10×10 (1) and others;" in line


def test_many_classes_are_left_to_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(256, size=(42, 8, 8), dtype=np.uint8), np.arange(42) % 21
    np.savez(tmp_path / "data.npz", images=pixels, labels=labels)
    np.savez(tmp_path / "test.npz", images=pixels ^ 1, labels=labels)
    out = str(tmp_path / "run")
    assert run(["train", str(tmp_path / "data.npz"), "--epsilon", "2", "--out", out, *FAST]) == 0
    capsys.readouterr()
    assert run(["evaluate", out, str(tmp_path / "test.npz")]) == 0
    assert "--json has the figures of each of 21 classes" in capsys.readouterr().out
    assert run(["evaluate", out, str(tmp_path / "test.npz"), "--json"]) == 0
    found = last_line(capsys)
    assert (len(found["by_class"]), len(found["confusion"])) == (21, 21)


def test_predict_goes_on_past_bad_files(
    binary_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = two_kinds(tmp_path / "new", 2) / "name"
    (new / "bad.png").write_bytes(b"GIF89a")
    out = tmp_path / "out.csv"
    assert run(["predict", str(binary_run), str(new), "--out", str(out)]) == 1
    rows = list(csv.DictReader(out.open()))
    assert [row["name"] for row in rows] == ["0.png", "1.png", "bad.png"]
    assert "it is a GIF" in rows[2]["error"]
    assert rows[2]["class"] == rows[2]["probability"] == ""
    assert [row["error"] for row in rows[:2]] == ["", ""]
    assert all(row["class"] for row in rows[:2])
    (new / "bad.png").unlink()
    assert run(["predict", str(binary_run), str(new), "--out", str(out)]) == 0
    assert [row["class"] for row in csv.DictReader(out.open())] == [row["class"] for row in rows[:2]]


def test_images_are_read_as_those_learned_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of images that were padded is shown padded ones, unless one says otherwise."""
    data, new = tmp_path / "data", tmp_path / "new"
    random = np.random.default_rng(0)
    for name, column in (("left", 0), ("right", 15)):  # told apart by what a crop cuts away
        for index in range(20):
            pixels = random.integers(0, 60, size=(8, 16), dtype=np.uint8)
            pixels[:, column] = 255
            for folder in (data, new):
                (folder / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / name / f"{index}.png")
    out = str(tmp_path / "run")
    read = ["--size", "16", "--resize", "pad"]
    assert run(["train", str(data), "--epsilon", "500", "--out", out, *read, *FAST]) == 0
    card = json.loads((tmp_path / "run" / "release" / "card.json").read_text())
    assert (card["model"]["resize"], card["model"]["value_range"]) == ("pad", None)
    capsys.readouterr()
    accuracies = {}
    for how in ([], ["--resize", "crop"]):
        assert run(["evaluate", str(tmp_path / "run" / "release"), str(new), "--json", *how]) == 0
        accuracies[bool(how)] = last_line(capsys)["accuracy"]["value"]
    assert accuracies[False] > 0.95
    assert accuracies[True] < 0.8


def test_predictions_are_written_whole_or_not_at_all(
    binary_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, new = tmp_path / "made" / "out.csv", str(two_kinds(tmp_path / "new", 100))
    out.parent.mkdir()
    blocks = Images.blocks

    def broken(images: Images, size: int) -> Iterator[Tensor]:
        yield next(blocks(images, size))
        assert next(out.parent.iterdir()).stat().st_size > 0, "lines are written as they come"
        raise InputError("the disk is gone")

    with monkeypatch.context() as patches:
        patches.setattr(Images, "blocks", broken)
        assert run(["predict", str(binary_run), new, "--out", str(out)]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == "error: the disk is gone"
        assert list(out.parent.iterdir()) == []
        out.write_text("what was there")
        assert run(["predict", str(binary_run), new, "--out", str(out)]) == 2
        assert out.read_text() == "what was there"
    capsys.readouterr()
    assert run(["predict", str(binary_run), new, "--out", str(out)]) == 0
    assert run(["predict", str(binary_run), new]) == 0
    assert capsys.readouterr().out == out.read_text()
    assert len(out.read_text().splitlines()) == 201
    assert list(out.parent.iterdir()) == [out]
