"""The checks that kill, race and fail the disk of what spends: on a sample, or in full where asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checks.trials import NEED_A_RELEASE

ROOT = Path(__file__).parents[2]


def check(name: str, *options: str) -> dict[str, Any]:
    """Run a check; the JSON that it prints last."""
    command = [sys.executable, "-m", f"checks.{name}", *options, "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600, cwd=ROOT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return found


def test_some_kills() -> None:
    found = check("kill", "--kills", "6", "--methods", "dp-sgd", "dp-ridge")
    assert sum(row["killed"] for row in found["rows"]) == 6
    assert all(row["equal"] == row["compared"] for row in found["rows"])
    assert sum(row["compared"] for row in found["rows"]) > 0


@pytest.mark.slow
def test_a_hundred_kills() -> None:
    found = check("kill", "--kills", "100", "--seed", "2")
    assert sum(row["killed"] for row in found["rows"]) == 100
    assert all(row["compared"] > 0 and row["equal"] == row["compared"] for row in found["rows"])
    assert {row["method"] for row in found["rows"] if row["lost_releases"]} <= set(NEED_A_RELEASE)


@pytest.mark.slow
def test_a_script_that_is_started_again() -> None:
    found = check("requeue", "--runs", "1", "--methods", "dp-sgd", "dp-ridge")
    assert sum(row["terminated"] + row["killed"] for row in found["rows"]) > 0
    assert all(row["runs"] == 1 for row in found["rows"])


def test_some_failing_operations() -> None:
    found = check(
        "disk", "--every", "140", "--methods", "dp-sgd", "--kinds", "once", "full", "quota", "limit"
    )
    assert all(row["cases"] > 0 for row in found["rows"])
    assert sum(row["sentences"] for row in found["rows"]) > 5


@pytest.mark.slow
def test_failing_operations() -> None:
    found = check("disk", "--every", "9")
    assert all(row["cases"] == row["sentences"] + row["went_on"] for row in found["rows"])
    assert sum(row["cases"] for row in found["rows"]) > 300


def test_two_processes_at_once() -> None:
    found = check("race", "--rounds", "1")
    rows = {row["case"]: row for row in found["rows"]}
    assert rows["room for both"]["completed"] == 2 * rows["room for both"]["rounds"]
    assert rows["room for one"]["completed"] == rows["room for one"]["sentences"] > 0


def test_some_kills_and_races_over_the_index() -> None:
    found = check("index", "--kills", "16", "--races", "1", "--seed", "2")
    assert found["kills"]["kills"] == 16
    limited = [race for race in found["races"] if race["case"] != "first use"]
    assert all(race["admitted"] > 0 and race["refused"] > 0 for race in limited)


@pytest.mark.slow
def test_hundreds_of_kills_over_the_index() -> None:
    found = check("index", "--kills", "300", "--races", "30", "--seed", "2")
    assert {
        "within a transaction, with a journal to roll back",
        "in the index, not in its ledger",
        "open in its ledger, not yet noted so",
    } <= found["kills"]["left"].keys()
    assert sum(race["killed"] for race in found["races"]) > 30
