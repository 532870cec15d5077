"""What is seen of a run while it works: on a terminal and in a log."""

from __future__ import annotations

import io
import sys
import time
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
