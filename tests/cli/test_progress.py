"""What is seen of a run while it works: on a terminal and in a log."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import time
from typing import Any

import pytest

import dpvision
from dpvision.cli import progress as told


class Spent:
    """An account of which half is spent."""

    budget = dpvision.Budget(2.0, 1e-5)

    def epsilon_spent(self) -> float:
        return 1.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(told.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    account: Any = Spent()
    with told.work_bars() as progress:
        for step in range(481):  # eight minutes
            clock[0] = float(step)
            progress("Phase II", step, 480, account)
    lines = capsys.readouterr().err.splitlines()
    assert 480 / told.LINES <= len(lines) <= 480 / told.LINES + 2
    assert lines[0] == "Phase II: 5 of 480, ε 1.00 of 2, 1/s, 8 min left"
    assert lines[-1] == "Phase II: 465 of 480, ε 1.00 of 2, 1/s, 15 s left"


def test_the_rate_is_that_of_the_last_lines(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Ten slow steps do not make an hour of what is left once the others are quick."""
    with told.work_bars() as progress:
        for step in range(1000):
            clock[0] += 60 if step < 10 else 0.5
            progress("training", step, 10_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 1 of 10000, 1/min, 166.7 h left"
    done = int(lines[-1].split()[1])
    assert f"2/s, {told.duration((10_000 - done) / 2)} left" in lines[-1]


def test_a_part_that_is_soon_done_gets_no_line(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with told.work_bars() as progress:
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
    monkeypatch.setattr(told, "LEAST_EPSILON_PAUSE", 0.0)
    account: Any = Spent()
    account.budget = dpvision.Budget(12.25, 1e-5)
    with told.work_bars() as progress:
        for step in range(3):
            progress(what, 12_340 + step, 98_765, account)
            time.sleep(0.15)
    assert "ε 1.00 of 12.25" in screen.getvalue()
    assert what in screen.getvalue()
    assert "…" not in screen.getvalue().replace("ε …", "")


SILENT_WORK = """
import time
from dpvision.cli import progress as told

told.SILENCE, told.FIRST_LINE, told.LINES = 0.2, 0.05, 0.1
told.LEAST_EPSILON_PAUSE = 0.0

class Spent:
    class budget:
        epsilon = 2.0
    def epsilon_spent(self):
        return 0.43

with told.work_bars() as progress:
    time.sleep(0.9)
    for step in (11, 12):
        progress("training", step, 400, Spent())
        time.sleep(0.1)
    time.sleep(0.9)
    progress("training", 400, 400, Spent())
    time.sleep(0.7)
print("ended", flush=True)
time.sleep(0.7)
"""


def test_silent_work_is_told_of_again_and_again_until_it_ends() -> None:
    """Before anything was told, within a step, and after the last; not after the end."""
    done = subprocess.run(
        [sys.executable, "-c", SILENT_WORK], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stderr.splitlines()
    epsilon, pace, silence = r"ε 0\.43 of 2", r"[\d.]+/s, \d+ s left", r"takes \d s so far"
    kinds = {
        "before": r"preparing, \d s so far",
        "at a call": rf"training: (11|12|400) of 400, {epsilon}(, {pace})?",
        "soon after": rf"training: 11 of 400, {epsilon}, 12 {silence}",
        "within a step": rf"training: 12 of 400, {epsilon}, {pace}, 13 {silence}",
        "after the last": rf"training: 400 of 400, {epsilon}, what follows {silence}",
    }
    found = {kind: [line for line in lines if re.fullmatch(line_of, line)] for kind, line_of in kinds.items()}
    assert all(2 <= len(found[kind]) <= 5 for kind in ("before", "within a step", "after the last")), lines
    assert sum(map(len, found.values())) == len(lines), "every line is whole"


def test_nothing_is_told_after_the_end() -> None:
    """The lines of one command do not come after what another says."""
    both = "import sys; sys.stderr = sys.stdout\n" + SILENT_WORK
    done = subprocess.run(
        [sys.executable, "-c", both], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "ended"
