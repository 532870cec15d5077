"""What is seen of a run while it works: on a terminal and in a log."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import rich.progress  # noqa: F401 (here: it would keep the clock that a test sets, if that test imported it)
import torch

import dpvision
from dpvision.cli import progress as told
from dpvision.runs import epsilon_so_far, memory


class Spent:
    """An account of which half is spent."""

    budget = dpvision.Budget(2.0, 1e-5)

    def epsilon_spent(self) -> float:
        return 1.0


@pytest.fixture(autouse=True)
def _constant_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told, "held_bytes", lambda: 400 << 20)
    monkeypatch.setattr(told, "peak_bytes", lambda: 3 << 29)
    monkeypatch.setattr(told, "gpu_bytes", lambda: None)


MEMORY = "memory 400 MiB (peak 1.5 GiB)"


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
    assert lines[0] == f"Phase II: 5 of 480, ε 1.00 of 2, 1/s, 8 min left, {MEMORY}"
    assert lines[-1] == f"Phase II: 465 of 480, ε 1.00 of 2, 1/s, 15 s left, {MEMORY}"


def test_the_rate_is_that_of_the_last_lines(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Ten slow steps do not make an hour of what is left once the others are quick."""
    with told.work_bars() as progress:
        for step in range(1000):
            clock[0] += 60 if step < 10 else 0.5
            progress("training", step, 10_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"training: 1 of 10000, 1/min, 166.7 h left, {MEMORY}"
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
    monkeypatch.setattr(epsilon_so_far, "LEAST_PAUSE", 0.0)
    account: Any = Spent()
    account.budget = dpvision.Budget(12.25, 1e-5)
    with told.work_bars() as progress:
        for step in range(4):
            progress(what, 12_340 + step, 98_765, account)
            time.sleep(0.15)
    assert "ε 1.00 of 12.25" in screen.getvalue()
    assert what in screen.getvalue()
    assert MEMORY in screen.getvalue()
    assert re.search(r"\d/s, memory", screen.getvalue())
    assert "…" not in screen.getvalue().replace("ε …", "")


SILENT_WORK = """
import time
from dpvision.cli import progress as told
from dpvision.runs import epsilon_so_far

told.SILENCE, told.FIRST_LINE, told.LINES = 0.2, 0.05, 0.1
epsilon_so_far.LEAST_PAUSE = 0.0

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
    memory_of = r", memory \d+ MiB \(peak \d+ MiB\)"
    found = {
        kind: [line for line in lines if re.fullmatch(line_of + memory_of, line)]
        for kind, line_of in kinds.items()
    }
    assert all(2 <= len(found[kind]) <= 5 for kind in ("before", "within a step", "after the last")), lines
    assert sum(map(len, found.values())) == len(lines), "every line is whole"


def test_nothing_is_told_after_the_end() -> None:
    """The lines of one command do not come after what another says."""
    both = "import sys; sys.stderr = sys.stdout\n" + SILENT_WORK
    done = subprocess.run(
        [sys.executable, "-c", both], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "ended"


HOLDS_A_BUFFER = """
import sys
held = b"x" * (64 << 20)
print("held", flush=True)
sys.stdin.read()
"""


def test_memory_is_that_of_all_processes() -> None:
    """Of one that a process has started, too, until it ends; the peak is never below what is held."""
    before = memory.held_bytes()
    if before is None or not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("there is no /proc that lists the children of a process")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLDS_A_BUFFER], **pipes) as child:
        child.stdout.readline()
        held = memory.held_bytes()
        child.communicate()
    assert held is not None
    assert held - before >= 64 << 20
    after = memory.held_bytes()
    assert after is not None
    assert after - before < 32 << 20
    assert memory.peak_bytes() >= after - (32 << 20)


def test_memory_of_gpus_is_told_where_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.gpu_bytes() is None or torch.cuda.is_initialized()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: (1 + device) << 30)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2 << 30)
    monkeypatch.setattr(told, "gpu_bytes", memory.gpu_bytes)
    assert told.MemoryInWords().now() == f"{MEMORY}, GPU 3.0 GiB (peak 4.0 GiB)"


def test_where_the_system_does_not_say_the_peak_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "PROCESSES", tmp_path)
    assert memory.held_bytes() is None
    assert memory.peak_bytes() > 16 << 20
    monkeypatch.setattr(told, "held_bytes", memory.held_bytes)
    assert told.MemoryInWords().now() == "peak memory 1.5 GiB"
