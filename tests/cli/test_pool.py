"""`dpvision pool`, run in this process, with a stand-in for diffusers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpvision.cli.main import run

SQUARES = "dead-leaves-squares"
MODEL = ["pool", "make", "--model", "painter", "--per-class", "2", "--device", "cpu"]
CLASSES = ["--class", "cat", "--class", "dog"]
PROCESS = ["pool", "make", "--process", SQUARES]


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_pool_of_a_model_is_made_and_shown(
    pipeline: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pool"
    command = [*MODEL, *CLASSES, "--prompt", "one {class}", "--inference-steps", "3", "--size", "8"]
    command += ["--batch-size", "1", "--seed", "5", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["dpvision", *command])
    assert run(command) == 0
    assert capsys.readouterr().out == f"the pool is in {out}\n"
    assert files(out) == ["cat/000000.png", "cat/000001.png", "dog/000000.png", "dog/000001.png", "pool.json"]
    assert pipeline.prompts == ["one cat"] * 2 + ["one dog"] * 2
    assert pipeline.steps == [3] * 4
    assert run([*command, "--json"]) == 0
    assert last_line(capsys) == {"pool": str(out)}
    assert len(pipeline.prompts) == 4

    assert run(["pool", "show", str(out), "--json"]) == 0
    shown = last_line(capsys)
    assert shown["images"] == 4
    assert shown["classes"] == {"cat": 2, "dog": 2}
    assert shown["sizes"] == {"8 x 8": 4}
    assert shown["provenance"] == json.loads((out / "pool.json").read_text())
    assert shown["provenance"]["command"].startswith("dpvision pool make --model painter")
    assert run(["pool", "show", str(out)]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [["images", "4"], ["sizes", "8 x 8"], ["classes", "2"], ["cat", "2"]]
    assert ["model", "painter"] in lines


def test_the_classes_of_a_data_set(pipeline: Any, tmp_path: Path) -> None:
    for index, name in enumerate(["lion", "bear", "lion"]):
        folder = tmp_path / "zoo" / name
        folder.mkdir(parents=True, exist_ok=True)
        shape = (4 + index, 5, 3) if index else (4, 5)
        Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(folder / f"{index}.png")
    command = [*MODEL, "--classes-of", str(tmp_path / "zoo"), "--out", str(tmp_path / "pool")]
    assert run(command) == 0
    assert pipeline.prompts == ["a photo of a bear"] * 2 + ["a photo of a lion"] * 2


def test_a_pool_of_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pool"
    assert run([*PROCESS, "--process", "fractals", "--count", "4", "--size", "16", "--out", str(out)]) == 0
    assert files(out) == [*(f"{index:06d}.png" for index in range(4)), "pool.json"]
    capsys.readouterr()
    assert run(["pool", "show", str(out), "--json"]) == 0
    shown = last_line(capsys)
    assert (shown["images"], shown["classes"], shown["sizes"]) == (4, None, {"16 x 16": 4})
    assert shown["provenance"]["processes"] == [SQUARES, "fractals"]
    assert run(["pool", "show", str(out)]) == 0
    assert "classes    none\n" in capsys.readouterr().out


def test_processes_make_images_of_32_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*PROCESS, "--count", "1", "--out", str(tmp_path / "pool")]) == 0
    assert Image.open(tmp_path / "pool/000000.png").size == (32, 32)


def test_ctrl_c_says_how_to_go_on(pipeline: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.fails_after = 1
    command = [*MODEL, *CLASSES, "--batch-size", "1", "--out", str(tmp_path / "pool")]
    assert run(command) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "interrupted; the same command goes on from what is written\n"
    assert files(tmp_path / "pool") == ["cat/000000.png", "pool.json"]
    pipeline.fails_after = None
    assert run(command) == 0
    assert len(files(tmp_path / "pool")) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pool", "frobnicate"], "frobnicate"),
        (["pool", "make"], "--out"),
        (["pool", "make", "--out", "new"], "give either --model, or --process once or more"),
        ([*MODEL, "--process", SQUARES, "--out", "new"], "give either --model, or --process"),
        (
            [*MODEL, *CLASSES, "--count", "3", "--out", "new"],
            "--count does not go with --model; leave it out",
        ),
        ([*PROCESS, "--prompt", "{class}", "--out", "new"], "--prompt does not go with --process"),
        ([*PROCESS, "--per-class", "3", "--out", "new"], "--per-class does not go with --process"),
        ([*PROCESS, *CLASSES, "--out", "new"], "--class does not go with --process"),
        ([*PROCESS, "--classes-of", ".", "--out", "new"], "--classes-of does not go with --process"),
        ([*PROCESS, "--device", "cpu", "--out", "new"], "--device does not go with --process"),
        ([*MODEL, "--out", "new"], "either by --class or by --classes-of"),
        ([*MODEL, *CLASSES, "--classes-of", ".", "--out", "new"], "either by --class or by --classes-of"),
        ([*MODEL, "--classes-of", "nowhere", "--out", "new"], "nowhere does not exist"),
        ([*MODEL, "--class", "../cat", "--out", "new"], "'../cat' cannot be the name of a folder"),
        ([*MODEL, *CLASSES, "--prompt", "a photo", "--out", "new"], "does not say {class}"),
        ([*MODEL, *CLASSES, "--per-class", "0", "--out", "new"], "per_class must be at least 1"),
        ([*MODEL, *CLASSES, "--seed", "-1", "--out", "new"], "seed must be at least 0"),
        ([*MODEL, *CLASSES, "--model", "missing", "--out", "new"], "model missing cannot be loaded"),
        ([*MODEL, *CLASSES, "--out", "."], "holds something else ('taken')"),
        ([*MODEL, *CLASSES, "--out", "taken"], "taken cannot be written"),
        ([*PROCESS, "--process", "clouds", "--out", "new"], "no random process 'clouds'"),
        ([*PROCESS, "--size", "8", "--out", "new"], "at least 16 pixels"),
        ([*PROCESS, "--out", "."], "holds something else ('taken')"),
        ([*PROCESS, "--out", "taken"], "taken cannot be written"),
        (["pool", "show", "nowhere"], "nowhere does not exist"),
        (["pool", "show", "."], "taken is not an image"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    pipeline: Any,
    tmp_path: Path,
    check_sentence: Callable[[list[str], str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").write_bytes(b"precious")
    check_sentence(arguments, message)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.parametrize("name", ["make", "show"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pool", name, "--help"]) == 0
    assert f"Usage: dpvision pool {name}" in capsys.readouterr().out


def test_a_run_is_mixed_with_the_pool_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = [*PROCESS, "--count", "3", "--size", "16", "--out", str(tmp_path / "pool")]
    assert run(make) == 0
    options = ["bundled:digits", "--epsilon", "2", "--method", "dp-mix-diff", "--set", "steps=2"]
    options += ["--set", "augmult=2", "--set", "k_self=1", "--set", "expected_batch_size=8"]
    assert run(["train", *options, "--out", str(tmp_path / "none")]) == 2
    assert "name a pool of them (--pool)" in capsys.readouterr().err
    options += ["--pool", str(tmp_path / "pool")]
    assert run(["plan", *options, "--json"]) == 0
    assert last_line(capsys)["config"]["pool"] == str(tmp_path / "pool")
    assert run(["train", *options, "--out", str(tmp_path / "run"), "--json"]) == 0
    card = json.loads((tmp_path / "run" / "release" / "card.json").read_text())
    assert (card["pool"]["images"], card["pool"]["provenance"]["processes"]) == (3, [SQUARES])
    assert not (tmp_path / "none").exists()
