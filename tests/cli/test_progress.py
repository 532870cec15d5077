"""What is seen of a run while it works: on a terminal, in a log, and when it is called wrongly."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import dpvision
from dpvision.cli import output


class Spent:
    """An account of which half is spent."""

    budget = dpvision.Budget(2.0, 1e-5)

    def epsilon_spent(self) -> float:
        return 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account: Any = Spent()
    with output.work_bars() as progress:
        for step in range(481):  # eight minutes
            clock[0] = float(step)
            progress("Phase II", step, 480, account)
    lines = capsys.readouterr().err.splitlines()
    assert 480 / output.LINES <= len(lines) <= 480 / output.LINES + 2
    assert lines[0] == "Phase II: 5 of 480, 8 min left, ε 1.00 of 2"
    assert lines[-1].startswith("Phase II: 465 of 480, 15 s left")


def test_a_part_that_is_soon_done_gets_no_line(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with output.work_bars() as progress:
        for part in ("features", "training"):
            for step in range(5):
                clock[0] += 0.9
                progress(part, step, 5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("what", ["training", "Phases II and III"])
def test_epsilon_is_not_cut_on_80_columns(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(output, "LEAST_EPSILON_PAUSE", 0.0)
    account: Any = Spent()
    account.budget = dpvision.Budget(12.25, 1e-5)
    with output.work_bars() as progress:
        for step in range(3):
            progress(what, 12_340 + step, 98_765, account)
            time.sleep(0.15)
    assert "ε 1.00 of 12.25" in screen.getvalue()
    assert what in screen.getvalue()
    assert "…" not in screen.getvalue().replace("ε …", "")


BROKEN = "epsilon ="


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "photos"],
        ["train", "photos", "--epsilon", "2"],
        ["train", "photos", "--epsilon", "two", "--out", "run"],
        ["train", "photos", "--epsilon", "0", "--out", "run"],
        ["train", "photos", "--epsilon", "2", "--out", "run", "--delta", "7"],
        ["train", "photos", "--epsilon", "2", "--out", "run", "--relation", "cousins"],
        ["train", "photos", "--epsilon", "2", "--out", "run", "--method", "magic"],
        ["train", "photos", "--epsilon", "2", "--out", "run", "--set", "steps"],
        ["train", "photos", "--epsilon", "2", "--out", "run", "--seed", "-1"],
        ["train", "photos", "--epsilon", "2", "--out", "run", "--frobnicate"],
        ["train", "--config", "recipe.toml", "--out", "run"],
        ["synthesize", "photos", "--epsilon", "1"],
        ["audit", "photos", "--canaries", "many"],
    ],
    ids=lambda arguments: " ".join(arguments[-2:]),
)
def test_a_mistake_is_told_before_anything_heavy_is_imported(arguments: list[str], tmp_path: Path) -> None:
    """Torch takes seconds."""
    (tmp_path / "recipe.toml").write_text(BROKEN)
    code = (
        "import sys; from dpvision.cli.main import run; code = run(sys.argv[1:]); "
        "assert not {'torch', 'numpy', 'scipy'} & sys.modules.keys(), 'imported'; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
