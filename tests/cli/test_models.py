"""dpvision evaluate and predict: what they show, and what they write."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpvision.cli.main import run

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
    assert list(rows[0]) == ["name", "class", "probability", "p(=1+1, ok)", "p(name)"]
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
