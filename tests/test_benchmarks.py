"""The benchmark commands start and print what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_gradients_benchmark_compares_all_contestants() -> None:
    options = ["--examples", "1", "--views", "2", "--rounds", "1", "--precision", "float32", "--json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "gradients.py"), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    found = json.loads(finished.stdout)
    assert found["failed"] == {}
    names = [row["name"] for row in found["rows"]]
    assert names == ["ours", "plain", "opacus-hooks", "opacus-ghost", "vmap"]
    assert all(row["views_per_second"] > 0 for row in found["rows"])


@pytest.mark.slow
def test_processes_benchmark_has_a_row_for_each(tmp_path: Path) -> None:
    options = ["bundled:digits", "--out", str(tmp_path), "--steps", "2", "--count", "256", "--json"]
    names = ["untrained", "fractals", "mixture"]
    command = [sys.executable, str(ROOT / "benchmarks" / "processes.py"), *options, "--only", *names]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    rows = json.loads(finished.stdout.splitlines()[-1])["rows"]
    assert [row["name"] for row in rows] == names
    assert all(
        row["epsilon"] <= 1 and row["interval"][0] <= row["accuracy"] <= row["interval"][1] for row in rows
    )
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "fractals.safetensors",
        "mixture.safetensors",
    ]
