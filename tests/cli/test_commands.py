"""The commands on good input, run in this process."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dpvision
from dpvision.cli import progress as told
from dpvision.cli.main import run
from dpvision.runs import Metrics

DIGITS = "bundled:digits"
FAST = [
    part
    for setting in ("network=linear", "steps=20", "expected_batch_size=256")
    for part in ("--set", setting)
]


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_from_data_to_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(["plan", DIGITS, "--epsilon", "2", "--out", str(out), *FAST, "--json"]) == 0
    plan = last_line(capsys)
    assert (plan["stages"][0]["count"], plan["config"]["network"], plan["test_examples"]) == (
        20,
        "linear",
        360,
    )
    assert not out.exists()

    assert run(["train", DIGITS, "--epsilon", "2", "--out", str(out), *FAST, "--json"]) == 0
    trained = last_line(capsys)
    assert trained["epsilon"] == plan["epsilon"] <= 2
    assert trained["delta"] == 1e-5
    assert trained["test_accuracy"] > 0.7
    assert trained["release"] == str(out / "release")

    assert run(["evaluate", str(out), DIGITS, "--json"]) == 0
    evaluated = last_line(capsys)
    assert evaluated == trained["test"]
    assert evaluated["accuracy"]["value"] == trained["test_accuracy"]
    assert evaluated["accuracy"]["interval_95"] == trained["test_interval_95"]
    assert evaluated["total"] == evaluated["accuracy"]["total"] == 360

    assert run(["predict", str(out), DIGITS, "--out", str(tmp_path / "p.csv")]) == 0
    assert run(["predict", str(out), DIGITS]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "p.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    test = dpvision.open_images(DIGITS, "test")
    right = sum(row["class"] == test.class_names[label] for row, label in zip(rows, test.labels, strict=True))
    assert right == evaluated["accuracy"]["correct"]
    for row in rows:
        of_class = {name: float(row[f"p({name})"]) for name in test.class_names}
        assert sum(of_class.values()) == pytest.approx(1, abs=1e-5)
        assert of_class[row["class"]] == float(row["probability"]) == max(of_class.values())

    assert run(["resume", str(out), "--json"]) == 0
    assert last_line(capsys) == trained

    assert run(["curves", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("NOT FOR PUBLICATION")
    curves = out / "private" / "curves.csv"
    assert shown.splitlines()[-1].split() == ["curves", str(curves)]
    assert len(curves.read_text().splitlines()) == 21
    assert run(["curves", str(out), "--json"]) == 0
    assert last_line(capsys)["curves"] == str(curves)

    assert run(["ledger", DIGITS, "--json"]) == 0
    assert last_line(capsys)["epsilon_spent"] == trained["epsilon"]
    assert run(["ledger", DIGITS, "--limit-epsilon", "3", "--limit-delta", "1e-5", "--json"]) == 0
    limited = last_line(capsys)
    assert (limited["epsilon_limit"], limited["delta"]) == (3, 1e-5)
    assert run(["ledger", str(out)]) == 0
    assert "owner's limit" in capsys.readouterr().out


def test_data_says_that_its_counts_are_private(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", DIGITS, "--split", "test", "--json"]) == 0
    summary = last_line(capsys)
    assert (summary["num_examples"], summary["shape"]) == (360, [1, 8, 8])
    assert sum(summary["class_counts"].values()) == 360
    assert run(["data", DIGITS]) == 0
    assert capsys.readouterr().out.startswith("private: do not publish\n")


def test_epsilon_and_noise_are_the_known_values(capsys: pytest.CaptureFixture[str]) -> None:
    known = ["--sample-rate", "0.04", "--steps", "2250", "--delta", "1e-5", "--json"]
    assert run(["epsilon", "--noise-multiplier", "1.5", *known]) == 0
    assert last_line(capsys)["epsilon"] == pytest.approx(6.777, rel=0.01)  # by the PRV accountant
    assert run(["epsilon", "--noise-multiplier", "1.5", *known, "--accountant", "rdp"]) == 0
    assert last_line(capsys)["epsilon"] == pytest.approx(7.3291, abs=5e-5)
    assert run(["noise", "--target-epsilon", "7.3291", *known, "--accountant", "rdp"]) == 0
    noise = last_line(capsys)
    assert noise["noise_multiplier"] == pytest.approx(1.5, rel=0.01)
    assert 0.99 * 7.3291 <= noise["epsilon"] <= 7.3291
    replace_one = ["epsilon", "--noise-multiplier", "8", *known, "--relation", "replace_one"]
    assert run(replace_one) == 0
    found = last_line(capsys)
    assert run(replace_one[:-2]) == 0
    assert found["epsilon"] > last_line(capsys)["epsilon"]


def test_options_from_a_file_and_who_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""
data = "{DIGITS}"
epsilon = 1
delta = 1e-5
size = 12
[config]
network = "linear"
steps = 10
expected_batch_size = 256
learning_rate = 1
"""
    )
    assert run(["plan", "--config", str(recipe), "--json"]) == 0
    plan = last_line(capsys)
    assert (plan["delta"], plan["image_shape"], plan["stages"][0]["count"]) == (1e-5, [1, 12, 12], 10)
    assert run(["plan", "--config", str(recipe), "--epsilon", "2", "--set", "steps=11", "--json"]) == 0
    plan = last_line(capsys)
    assert (plan["stages"][0]["count"], plan["config"]["learning_rate"]) == (11, 1)
    assert 1 < plan["epsilon"] <= 2


def test_settings_inside_settings(capsys: pytest.CaptureFixture[str]) -> None:
    wide = ["network=wrn-10-1", "network_options.groups=4", "steps=1", "expected_batch_size=8", "augmult=1"]
    options = [part for setting in wide for part in ("--set", setting)]
    assert run(["plan", DIGITS, "--epsilon", "2", "--size", "16", *options, "--json"]) == 0
    assert last_line(capsys)["config"]["network_options"] == {"groups": 4}


@pytest.mark.parametrize("number", [".5", "+.5", "5.e-1", "0.5"])
def test_numbers_that_toml_writes_otherwise(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", DIGITS, "--epsilon", "2", "--set", f"momentum={number}", "--json"]) == 0
    assert last_line(capsys)["config"]["momentum"] == 0.5


def test_predict_a_folder_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", DIGITS, "--epsilon", "2", "--out", str(tmp_path / "run"), *FAST]) == 0
    text = capsys.readouterr().out
    assert "test accuracy" in text
    assert str(tmp_path / "run" / "release") in text
    (tmp_path / "new" / "deep").mkdir(parents=True)
    Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(tmp_path / "new" / "deep" / "a, b.png")
    assert run(["predict", str(tmp_path / "run" / "release"), str(tmp_path / "new")]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["name"] == "deep/a, b.png"
    assert row["class"] in "0123456789"
    assert 0.1 <= float(row["probability"]) <= 1


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Metrics.append
    calls = []

    def interrupt(self: Any, statistics: Any, account: Any) -> None:
        step(self, statistics, account)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Metrics, "append", interrupt)
    out = tmp_path / "my run"
    assert run(["train", DIGITS, "--epsilon", "2", "--out", str(out), *FAST]) == 130
    error = capsys.readouterr().err
    assert error.splitlines()[-1] == f"interrupted; go on with: dpvision resume '{out}'"
    assert run(["resume", str(out), "--json"]) == 0
    assert last_line(capsys)["test_accuracy"] > 0.7


def test_an_abandoned_run_can_be_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Metrics, "append", interrupt)
    out = str(tmp_path / "run")
    assert run(["train", DIGITS, "--epsilon", "2", "--out", out, *FAST]) == 130
    capsys.readouterr()
    assert run(["ledger", DIGITS, "--close", out, "--json"]) == 0
    summary = last_line(capsys)
    assert 0 < summary["epsilon_counted"] == summary["epsilon_spent"] < 1
    assert run(["resume", out]) == 2
    assert "closed" in capsys.readouterr().err


def test_epsilon_so_far_is_seldom_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(told.time, "monotonic", lambda: clock)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich: as if on a terminal
    computed = []

    class SlowAccount:
        budget = dpvision.Budget(2.0, 1e-5)

        def epsilon_spent(self) -> float:
            nonlocal clock
            clock += 0.5
            computed.append(clock)
            return 1.0

    with told.work_bars() as progress:
        for step in range(1000):
            clock += 0.5
            progress("training", step, 1000, SlowAccount())  # type: ignore[arg-type]
    assert 1 <= len(computed) <= math.ceil(0.01 * clock / 0.5)


def test_help_is_quick_and_names_every_command() -> None:
    started = time.monotonic()
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-c",
        "from dpvision.cli.main import main; main()",
        "--help",
    ]
    environment = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    assert "torch" not in done.stderr  # what takes seconds is not imported
    assert time.monotonic() - started < 10
    for name in ("train", "plan", "resume", "evaluate", "predict", "ledger", "data", "epsilon", "noise"):
        assert f" {name} " in done.stdout


@pytest.mark.parametrize(
    "name", ["train", "plan", "resume", "evaluate", "predict", "ledger", "data", "epsilon", "noise"]
)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert "Usage: dpvision" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ([], "Publish run/release and nothing else."),
        (["audit"], "THE RESULT IS PRIVATE: ε does not cover it. The run spends ε of the data's budget"),
        (["prior", "train"], "An interrupted training goes on from the checkpoint beside FILE."),
    ],
)
def test_paragraphs_are_as_wide_as_the_terminal(
    command: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "900")
    assert run([*command, "--help"]) == 0
    assert sentence in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"dpvision {dpvision.__version__}\n"


def test_phase_iii_is_a_setting_with_an_option_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    wide = ["encoder=random-wrn-10-1", "steps=10", "expected_batch_size=8", "phase_ii_share=0.3"]
    options = ["--method", "dp-randp", *(part for setting in wide for part in ("--set", setting)), "--json"]
    for phase_iii, counts in (("full", [3, 7]), ("none", [10, 50])):
        assert run(["plan", DIGITS, "--epsilon", "2", "--phase-iii", phase_iii, *options]) == 0
        plan = last_line(capsys)
        assert plan["config"]["phase_iii"] == phase_iii
        assert [stage["count"] for stage in plan["stages"]] == counts
    assert run(["plan", DIGITS, "--epsilon", "2", "--method", "dp-sgd", "--phase-iii", "full"]) == 2
    assert "no setting 'phase_iii'" in capsys.readouterr().err
