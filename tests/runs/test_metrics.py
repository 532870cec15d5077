"""What is written down of each step, and the table and event files that are made of it."""

from __future__ import annotations

import csv
import stat
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpvision.privacy import Account, Budget, InputError, gaussian_event
from dpvision.privacy.accounting import epsilon
from dpvision.runs import Metrics, curves, epsilon_so_far, tensorboard
from dpvision.runs.metrics import read_metrics
from dpvision.training import StepStatistics

BUDGET = Budget(9.0, 1e-5)
STEP, ONCE = gaussian_event(2.0, 0.1), gaussian_event(5.0)
PLANNED = (ONCE, STEP.times(300))


def step(number: int, loss: float = 0.5) -> StepStatistics:
    return StepStatistics(number, 3, loss, 1.0, 0.25, 0, 0.1)


def open_account() -> Account:
    account = Account(BUDGET, None, "a test", PLANNED)
    account.open()
    account.record(ONCE)
    return account


def take_steps(metrics: Metrics, account: Account, *numbers: int, loss: float = 0.5) -> None:
    for number in numbers:
        account.record(STEP)
        metrics.append(step(number, loss), account)
    metrics.close()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_metrics_go_on_after_a_torn_line(tmp_path: Path) -> None:
    account = open_account()
    take_steps(Metrics(tmp_path), account, 0)
    path = tmp_path / "metrics.jsonl"
    first = path.read_bytes()
    later = first[: first.index(b'"seconds"')] + b'"seconds": 50.0, "releases": [1, 1]}\n'
    path.write_bytes(later + b'{"step": 1, "batch_')
    again = Metrics(tmp_path)
    assert again.seconds >= 50.0
    take_steps(again, account, 1)
    assert [line[:11] for line in path.read_text().splitlines()] == ['{"step": 0,', '{"step": 1,']


def test_a_step_that_was_taken_again_is_there_once_the_last_time(tmp_path: Path) -> None:
    """As of a process that was killed in step 4, whose last checkpoint was of two steps."""
    account = open_account()
    take_steps(Metrics(tmp_path), account, 0, 1, 2, 3)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "ba')
    take_steps(Metrics(tmp_path), account, 2, 3, 4, loss=0.25)
    found = rows(curves.write_curves(tmp_path, PLANNED, BUDGET))
    assert [int(row["step"]) for row in found] == [0, 1, 2, 3, 4]
    assert [float(row["mean_loss"]) for row in found] == [0.5, 0.5, 0.25, 0.25, 0.25]
    assert [int(row["releases"]) for row in found] == [2, 3, 6, 7, 8]  # all that was paid for
    paid = [epsilon([ONCE, STEP.times(count - 1)], BUDGET.delta) for count in (2, 3, 6, 7, 8)]
    assert [float(row["epsilon"]) for row in found] == pytest.approx(paid, rel=1e-5)


def test_a_table_while_a_step_is_being_written_down(tmp_path: Path) -> None:
    take_steps(Metrics(tmp_path), open_account(), 0, 1)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 2, "ba')
    path = curves.write_curves(tmp_path, PLANNED, BUDGET)
    assert len(rows(path)) == 2
    assert (path, mode(path)) == (tmp_path / "curves.csv", 0o600)
    assert set(rows(path)[0]) == {*asdict(step(0)), "seconds", "releases", "epsilon"}
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b'"ba')  # it is left to who writes it


def test_the_epsilon_of_a_long_run_is_nowhere_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "MOST_EPSILONS", 10)
    take_steps(Metrics(tmp_path), open_account(), *range(37))
    found = [float(row["epsilon"]) for row in rows(curves.write_curves(tmp_path, PLANNED, BUDGET))]
    assert found == sorted(found)
    assert len(set(found)) == 10
    for number in (0, 1, 4, 5, 20, 36):
        assert found[number] >= epsilon([ONCE, STEP.times(number + 1)], BUDGET.delta) * (1 - 1e-5)
    last = epsilon([ONCE, STEP.times(37)], BUDGET.delta)
    assert found[-1] == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has taken no step yet, or is of a method that takes none"),
        (b"", "has taken no step yet"),
        (b"no line\n", r"metrics\.jsonl was changed or damaged"),
        (b"[]\n", r"metrics\.jsonl was changed or damaged"),
        (b'{"step": 0}\n', r"metrics\.jsonl cannot be read"),
        (b'{"step": 0, "releases": [1]}\n', r"metrics\.jsonl cannot be read"),
        (b'{"step": 0, "releases": ["a", "b"]}\n', r"metrics\.jsonl cannot be read"),
        (b'{"step": 0, "releases": [1, 301]}\n', r"metrics\.jsonl cannot be read"),
    ],
)
def test_metrics_that_make_no_table(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        curves.write_curves(tmp_path, PLANNED, BUDGET)
    assert not (tmp_path / "curves.csv").exists()


class StandInWriter:
    """In place of TensorBoard's writer: it writes nothing but down what it is told."""

    made: list[StandInWriter]

    def __init__(self, folder: Path, purge_step: int, flush_secs: int) -> None:
        self.path, self.purge_step, self.is_closed = (
            Path(folder, f"events.{len(self.made)}"),
            purge_step,
            False,
        )
        self.path.touch(0o644)
        self.scalars: list[tuple[str, float, int]] = []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[StandInWriter]:
    monkeypatch.setattr(StandInWriter, "made", [], raising=False)
    library = SimpleNamespace(SummaryWriter=StandInWriter)
    monkeypatch.setattr(tensorboard, "import_extra", lambda *_, **__: library)
    monkeypatch.setattr(epsilon_so_far, "LEAST_PAUSE", 0.0)
    monkeypatch.setattr(epsilon_so_far, "PAUSE", 0.0)
    return StandInWriter.made


def test_without_a_folder_for_tensorboard_nothing_of_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*what: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(tensorboard, "import_extra", refuse)
    take_steps(Metrics(tmp_path), open_account(), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_each_step_is_shown_to_tensorboard(tmp_path: Path, writers: list[StandInWriter]) -> None:
    tensorboard.show_to_tensorboard(tmp_path)
    account = open_account()
    take_steps(Metrics(tmp_path), account, 0, 1)
    (writer,) = writers
    assert writer.is_closed
    figures = {name: value for name, value, at in writer.scalars if at == 1}
    assert figures.pop("epsilon") == pytest.approx(account.epsilon_spent(), rel=1e-6)
    assert figures == {name: value for name, value in asdict(step(1)).items() if name != "step"}
    assert mode(tmp_path / "tensorboard") == 0o700
    assert mode(writer.path) == 0o600


def test_steps_that_are_taken_again_hide_the_earlier_ones(
    tmp_path: Path, writers: list[StandInWriter]
) -> None:
    tensorboard.show_to_tensorboard(tmp_path)
    account = open_account()
    take_steps(Metrics(tmp_path), account, 0, 1, 2)
    Metrics(tmp_path).close()  # a process that takes no step writes no file
    take_steps(Metrics(tmp_path), account, 1, 2, 3)
    assert [writer.purge_step for writer in writers] == [0, 1]


def test_tensorboard_reads_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real one, where it is installed."""
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(epsilon_so_far, "LEAST_PAUSE", 0.0)
    monkeypatch.setattr(epsilon_so_far, "PAUSE", 0.0)
    tensorboard.show_to_tensorboard(tmp_path)
    account = open_account()
    take_steps(Metrics(tmp_path), account, 0, 1, 2)
    take_steps(Metrics(tmp_path), account, 1, 2, loss=0.25)
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    names = {*asdict(step(0)), "epsilon"} - {"step"}
    assert set(read.Tags()["scalars"]) == names
    assert [(one.step, one.value) for one in read.Scalars("mean_loss")] == [(0, 0.5), (1, 0.25), (2, 0.25)]
    assert read.Scalars("epsilon")[-1].value == pytest.approx(account.epsilon_spent(), rel=1e-6)
    assert all(mode(path) == 0o600 for path in (tmp_path / "tensorboard").iterdir())


def test_the_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    take_steps(Metrics(tmp_path), open_account(), 0)
    (line,) = read_metrics(tmp_path)
    assert {name: line[name] for name in asdict(step(0))} == asdict(step(0))
