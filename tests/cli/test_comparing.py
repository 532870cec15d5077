"""dpvision runs and sweep: the table, the chart, JSON, and what is left of an interrupted sweep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpvision.api import sweeping
from dpvision.api.comparing import Runs
from dpvision.api.run_rows import RunRow
from dpvision.cli.comparing import runs_text
from dpvision.cli.main import run

DIGITS = "bundled:digits"
SWEEP = ["sweep", DIGITS, "--methods", "dp-ridge,dp-sgd", "--epsilons", "1,3"]
SETTINGS = ["--set", "dp-ridge.encoder=pixels", "--set", "dp-sgd.network=linear", "--set", "dp-sgd.steps=3"]
NAMES = [f"{method}-eps{epsilon}-run1" for method in ("dp-ridge", "dp-sgd") for epsilon in (1, 3)]


@pytest.fixture
def swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run([*SWEEP, *SETTINGS, "--out", str(tmp_path / "sweep")]) == 0
    return tmp_path / "sweep"


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_sweep_and_its_table(swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = capsys.readouterr().out
    assert said.startswith(
        "all: data bundled:digits, δ 1e-05, relation add_or_remove_one, unit image, n 360\n"
    )
    for name in NAMES:
        (row,) = [line for line in said.splitlines() if line.startswith(name)]
        assert row.split()[1] == name.partition("-eps")[0]
        assert "yes      paid  finished" in row
    assert "4 runs are on the same private images (bundled:digits): together they cost ε" in said
    assert said.endswith(f"chart: {swept / 'sweep.svg'}\n")

    assert run(["runs", str(swept), "--chart", str(tmp_path / "chart.png"), "--json"]) == 0
    found = last_line(capsys)
    assert [row["name"] for row in found["runs"]] == NAMES
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")

    assert run(["runs", str(swept), "--figure", "auc"]) == 0
    assert "AUC (95 %)" in capsys.readouterr().out

    assert run([*SWEEP, *SETTINGS, "--out", str(swept), "--json"]) == 0
    again = last_line(capsys)
    assert again["runs"] == found["runs"]
    assert (again["failed"], again["chart"]) == ({}, str(swept / "sweep.svg"))


def test_an_interrupted_sweep_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, done = sweeping._work, []

    def interrupt(job: sweeping.Job, *args: Any) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(job.name)
        return work(job, *args)

    monkeypatch.setattr(sweeping, "_work", interrupt)
    arguments = [*SWEEP, *SETTINGS, "--out", str(tmp_path / "sweep")]
    assert run(arguments) == 130
    assert "interrupted; the same command goes on from what is written" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)


def test_a_failed_run_makes_the_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ledger", DIGITS, "--limit-epsilon", "1.1", "--limit-delta", "1e-5"]) == 0
    arguments = [*SWEEP, *SETTINGS, "--out", str(tmp_path / "sweep")]
    assert run(arguments) == 1
    said = capsys.readouterr().out
    assert "dp-ridge-eps3-run1: failed: this run would bring the data set to epsilon" in said
    assert "over its owner's limit of 1.1" in said


def test_unpaid_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*SWEEP, *SETTINGS, "--out", str(tmp_path / "sweep"), "--unpaid"]
    assert run(arguments) == 0
    said = capsys.readouterr().out
    assert said.count(" unpaid  finished") == 4
    assert "4 runs are unpaid on images that were said to be public: no account has what that costs" in said
    assert "choose no settings by them" in said


def test_a_recipe_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"data = '{DIGITS}'\nepsilon = 2\nmethod = 'dp-sgd'\nseed = 1\n[config.dp-ridge]\nencoder = 'pixels'"
    )
    arguments = ["sweep", "--config", str(recipe), "--methods", "dp-ridge", "--epsilons", "3"]
    assert run([*arguments, "--out", str(tmp_path / "sweep"), "--json"]) == 0
    (row,) = last_line(capsys)["runs"]
    assert (row["method"], row["target_epsilon"], row["is_private"]) == ("dp-ridge", 3.0, True)
    recipe.write_text("trials = 3")
    assert run([*arguments, "--out", str(tmp_path / "other")]) == 2
    assert "trials is no option of sweep" in capsys.readouterr().err


def test_an_empty_folder_has_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"there are no runs in {tmp_path}\n"


def test_there_must_be_something_to_draw(
    tmp_path: Path, check_sentence: Callable[[list[str], str], None]
) -> None:
    check_sentence(["runs", str(tmp_path), "--chart", str(tmp_path / "a.svg")], "there is nothing to draw")


ROW = {
    "path": "",
    "delta": 1e-5,
    "neighboring_relation": "add_or_remove_one",
    "unit": "image",
    "is_private": True,
}
ROWS = (
    RunRow(name="a", state="finished", method="dp-sgd", epsilon=1.0, cost="paid", seconds=200.0, **ROW),
    RunRow(name="b", state="interrupted", step=3, steps=9, target_epsilon=2.0, cost="paid", **ROW),
    RunRow(name="c", state="interrupted", has_learned=True, target_epsilon=2.0, cost="paid", **ROW),
    RunRow(name="d", state="damaged", path="", problem="d/config.json is not JSON"),
    RunRow(
        name="e",
        state="finished",
        cost="unpaid",
        **{**ROW, "is_private": False},
        not_private_because=("a seed",),
    ),
    RunRow(
        name="f\x1b[2J",
        state="finished",
        method="dp-moments",
        images=7,
        cost="unpaid",
        cost_because="no ledger",
        **ROW,
    ),
    RunRow(name="g", state="finished", cost="unpaid", cost_because="no ledger", **ROW),
)


def test_each_state_is_said_plainly() -> None:
    lines = runs_text(Runs("folder", ROWS, ())).splitlines()
    assert lines[0] == "all: δ 1e-05, relation add_or_remove_one, unit image"
    head, *rows = lines[2:10]
    assert head.split() == ["run", "method", "ε", "private", "cost", "state", "images", "time"]
    cells = [[cell for cell in row.split("  ") if cell] for row in rows]
    assert [cell.strip() for cell in cells[0]] == [
        "a",
        "dp-sgd",
        "1",
        "yes",
        "paid",
        "finished",
        "–",
        "3 min",
    ]
    assert "2 planned" in rows[1]
    assert "interrupted at step 3 of 9" in rows[1]
    assert "interrupted, has learned" in rows[2]
    assert "damaged" in rows[3]
    assert " NO " in rows[4]
    assert rows[5].startswith("f\\x1b[2J")
    assert lines[11:15] == [
        "d: damaged: d/config.json is not JSON",
        "e: NOT PRIVATE: a seed",
        "f\\x1b[2J, g: unpaid: no ledger",
        "",
    ]
