"""Runs that one can watch: their curves, and event files for TensorBoard."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import dpvision
from dpvision.images import Images
from dpvision.privacy import InputError

CONFIG = {"network": "linear", "steps": 8, "expected_batch_size": 40, "learning_rate": 0.5}


def interrupt_at(step: int) -> Any:
    def progress(what: str, done: int, total: int, account: object = None) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def begin(images: Images, out: Path, step: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        dpvision.train(
            images, epsilon=3, method="dp-sgd", config=CONFIG, out=out, progress=interrupt_at(step), **options
        )


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_curves_of_a_run_that_was_interrupted_and_killed(images: Images, tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "kept"
    begin(images, run, step=3)
    assert [row["releases"] for row in rows(dpvision.curves(run))] == ["1", "2", "3"]  # while it works
    shutil.copy(run / "private" / "checkpoint.safetensors", kept)
    with pytest.raises(KeyboardInterrupt):
        dpvision.resume(run, data=images, progress=interrupt_at(5))
    shutil.copy(kept, run / "private" / "checkpoint.safetensors")  # as a process that was killed leaves it
    released = dpvision.resume(run, data=images)
    path = dpvision.curves(run)
    found = rows(path)
    assert path == run / "private" / "curves.csv"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [int(row["step"]) for row in found] == [0, 1, 2, 3, 4, 5]
    assert [int(row["releases"]) for row in found] == [1, 2, 3, 6, 7, 8]
    assert float(found[-1]["epsilon"]) == pytest.approx(released.epsilon, rel=1e-5)
    seconds = [float(row["seconds"]) for row in found]
    assert seconds == sorted(seconds)
    assert all(row["mean_loss"] and row["median_norm"] and row["fraction_clipped"] for row in found)


def test_learning_rates_are_those_of_the_schedule(images: Images, tmp_path: Path) -> None:
    config = CONFIG | {"schedule": "linear"}
    dpvision.train(images, epsilon=3, method="dp-sgd", config=config, out=tmp_path / "run")
    found = [float(row["learning_rate"]) for row in rows(dpvision.curves(tmp_path / "run"))]
    assert found == pytest.approx([0.5 * (8 - step) / 8 for step in range(8)])


def test_a_run_without_steps_has_no_curves(images: Images, tmp_path: Path) -> None:
    run = tmp_path / "run"
    dpvision.train(images, epsilon=3, method="dp-ridge", config={"encoder": "pixels"}, out=run)
    with pytest.raises(InputError, match="has taken no step yet, or is of a method that takes none"):
        dpvision.curves(run)
    with pytest.raises(InputError, match="is no run directory"):
        dpvision.curves(run / "release")


class StandInWriter:
    """In place of TensorBoard's writer."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.path = Path(folder, f"events.from.{how['purge_step']}")

    def add_scalar(self, name: str, value: float, step: int) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps([name, value, step]) + "\n")

    def close(self) -> None:
        self.path.touch()


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard is installed."""
    of_torch = ModuleType("torch.utils.tensorboard")
    vars(of_torch)["SummaryWriter"] = StandInWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", of_torch)
    monkeypatch.setattr(torch.utils, "tensorboard", of_torch, raising=False)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found("json" if name == "tensorboard" else name)
    )


@pytest.mark.usefixtures("_installed")
def test_a_run_that_is_resumed_goes_on_showing_itself(images: Images, tmp_path: Path) -> None:
    begin(images, tmp_path / "run", step=3, tensorboard=True)
    dpvision.resume(tmp_path / "run", data=images)
    folder = tmp_path / "run" / "private" / "tensorboard"
    written = {path.name: path.read_text().splitlines() for path in folder.iterdir()}
    assert written.keys() == {"events.from.0", "events.from.3"}
    losses = [json.loads(line) for line in sorted(written.values())[0] + sorted(written.values())[1]]
    assert sorted(step for name, _, step in losses if name == "mean_loss") == list(range(8))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "run" / "release" / "tensorboard").exists()


@pytest.mark.usefixtures("_installed")
def test_a_run_shows_itself_only_if_it_is_asked(images: Images, tmp_path: Path) -> None:
    dpvision.train(images, epsilon=3, method="dp-sgd", config=CONFIG, out=tmp_path / "run")
    assert not (tmp_path / "run" / "private" / "tensorboard").exists()


def test_without_tensorboard_a_run_is_refused_before_it_begins(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tensorboard=True needs TensorBoard.*'dpvision\[tensorboard\]'"):
        dpvision.train(images, epsilon=3, config=CONFIG, out=tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_a_run_that_shows_itself_is_not_resumed(images: Images, tmp_path: Path) -> None:
    """Nothing is spent, and it goes on once the folder is gone."""
    if importlib.util.find_spec("tensorboard"):
        pytest.skip("it is installed")
    begin(images, tmp_path / "run", step=3)
    folder = tmp_path / "run" / "private" / "tensorboard"
    folder.mkdir()
    with pytest.raises(InputError, match=r"going on with the event files in .* needs torch"):
        dpvision.resume(tmp_path / "run", data=images)
    folder.rmdir()
    dpvision.resume(tmp_path / "run", data=images)
