"""`dpvision prior`, run in this process."""

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
from dpvision.priors import PROCESSES, load_prior
from dpvision.priors.phase_one import places

OPTIONS = "--network wrn-10-1 --count 16 --image-size 16 --view-size 16 --steps 2 --batch-size 8 --device cpu"
TRAIN = ["prior", "train", *OPTIONS.split()]
SQUARES = "dead-leaves-squares"
IMAGES = ["prior", "images", "--process", SQUARES, "--count", "3", "--size", "16"]


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_every_process_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prior", "processes", "--json"]) == 0
    assert last_line(capsys) == {name: process.summary for name, process in PROCESSES.items()}
    assert run(["prior", "processes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PROCESSES)
    assert lines[0].endswith(PROCESSES[SQUARES].summary)


def test_images_are_written_and_not_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*IMAGES, "--out", str(tmp_path / "out")]
    folder = tmp_path / "out" / SQUARES
    assert run(command) == 0
    assert capsys.readouterr().out == f"3 images in {folder}\n"
    assert sorted(file.name for file in folder.iterdir()) == ["000000.png", "000001.png", "000002.png"]
    assert Image.open(folder / "000002.png").size == (16, 16)
    written = (folder / "000000.png").stat().st_mtime_ns
    assert run([*command, "--json"]) == 0
    assert last_line(capsys) == {"images": str(folder), "count": 3}
    assert (folder / "000000.png").stat().st_mtime_ns == written


def test_a_prior_is_trained_shown_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small.safetensors"
    command = [*TRAIN, "--process", SQUARES, "--process", "fractals", "--stem-stride", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["dpvision", *command])
    assert run([*command, "--json"]) == 0
    trained = last_line(capsys)
    assert trained == {"prior": str(out), "figure": load_prior(out).provenance["figure"]}

    assert run(["prior", "show", str(out), "--json"]) == 0
    shown = last_line(capsys)
    assert shown == load_prior(out).provenance
    assert shown["command"] == " ".join(["dpvision", *command[:-1], "small.safetensors"])
    assert shown["processes"] == [SQUARES, "fractals"]
    assert shown["network_options"] == {"stem_stride": 2}
    assert run(["prior", "show", str(out)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines.keys() == shown.keys()
    assert (lines["network"], lines["figure"]) == ("wrn-10-1", trained["figure"])

    monkeypatch.setattr(places, "WEIGHTS", tmp_path)
    assert run(["prior", "list"]) == 0
    assert capsys.readouterr().out == f"small  wrn-10-1, 32 views: {trained['figure']}\n"
    assert run(["prior", "list", "--json"]) == 0
    assert last_line(capsys) == {
        "small": {name: shown[name] for name in ("network", "processes", "views", "figure")}
    }


def test_no_priors_are_a_list_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "WEIGHTS", tmp_path)
    assert run(["prior", "list"]) == 0
    assert capsys.readouterr().out == "no priors are bundled\n"
    assert run(["prior", "list", "--json"]) == 0
    assert last_line(capsys) == {}


def test_a_prior_of_public_images_and_one_of_a_stream(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "public").mkdir()
    for index in range(8):
        Image.fromarray(np.full((16, 16), 30 * index, dtype=np.uint8)).save(tmp_path / f"public/{index}.png")
    out = tmp_path / "public.safetensors"
    assert run([*TRAIN, "--public-images", str(tmp_path / "public"), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: {load_prior(out).provenance['figure']}\n"
    assert load_prior(out).provenance["count"] == 8
    out = tmp_path / "stream.safetensors"
    assert run([*TRAIN, "--stream", "--process", SQUARES, "--out", str(out)]) == 0
    assert load_prior(out).provenance["stream"]


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dpvision.api.priors.train_body", interrupt)
    assert run([*TRAIN, "--out", str(tmp_path / "small.safetensors")]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "interrupted; the same command goes on from what is written\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prior", "frobnicate"], "frobnicate"),
        ([*TRAIN], "--out"),
        ([*TRAIN, "--out", "new.pt"], "should end in .safetensors"),
        ([*TRAIN, "--out", "taken.safetensors"], "taken.safetensors exists already"),
        ([*TRAIN, "--out", "no/new.safetensors"], "no is not a folder"),
        ([*TRAIN, "--out", "new.safetensors", "--process", "clouds"], "no random process 'clouds'"),
        (
            [*TRAIN, "--out", "new.safetensors", "--stream", "--process", "clouds"],
            "no random process 'clouds'",
        ),
        ([*TRAIN, "--out", "new.safetensors", "--public-images", "nowhere"], "nowhere does not exist"),
        ([*TRAIN, "--out", "new.safetensors", "--public-images", ".", "--process", SQUARES], "exclude"),
        ([*TRAIN, "--out", "new.safetensors", "--public-images", ".", "--stream"], "leave stream out"),
        ([*TRAIN, "--out", "new.safetensors", "--network", "linear"], "wrn-D-K"),
        ([*TRAIN, "--out", "new.safetensors", "--stem-stride", "0"], "stem_stride"),
        ([*TRAIN, "--out", "new.safetensors", "--steps", "0"], "steps must be at least 1"),
        ([*TRAIN, "--out", "new.safetensors", "--steps", "many"], "--steps"),
        ([*TRAIN, "--out", "new.safetensors", "--count", "7"], "7 images do not fill a batch of 8"),
        ([*TRAIN, "--out", "new.safetensors", "--image-size", "8"], "at least 16 pixels"),
        ([*TRAIN, "--out", "new.safetensors", "--view-size", "2"], "at least 5×5 pixels"),
        ([*TRAIN, "--out", "new.safetensors", "--seed", "-1"], "seed must be at least 0"),
        ([*TRAIN, "--out", "new.safetensors", "--device", "abacus"], "abacus"),
        (["prior", "images", "--out", "new"], "--process"),
        (["prior", "images", "--process", "clouds", "--out", "new"], "no random process 'clouds'"),
        ([*IMAGES, "--count", "0", "--out", "new"], "at least 1, not 0"),
        ([*IMAGES, "--size", "8", "--out", "new"], "at least 16 pixels"),
        ([*IMAGES, "--seed", "-1", "--out", "new"], "seed must be at least 0"),
        ([*IMAGES, "--out", "."], "holds something else"),
        ([*IMAGES, "--out", "taken.safetensors"], "cannot be written"),
        (["prior", "show", "nothing"], "there is no prior 'nothing'"),
        (["prior", "show", "taken.safetensors"], "not a safetensors file"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    check_sentence: Callable[[list[str], str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.safetensors").write_bytes(b"precious")
    check_sentence(arguments, message)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"precious"]


@pytest.mark.parametrize("name", ["processes", "images", "train", "list", "show"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prior", name, "--help"]) == 0
    assert f"Usage: dpvision prior {name}" in capsys.readouterr().out
