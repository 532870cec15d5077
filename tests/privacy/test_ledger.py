from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest

from dpvision.privacy import (
    Budget,
    BudgetExceeded,
    InputError,
    Ledger,
    default_ledger_path,
    epsilon,
    gaussian_event,
)
from dpvision.privacy.events import written
from dpvision.privacy.ledger import About

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

DIGEST = "ab" * 32
STEP = gaussian_event(2.0, 0.05)
PLAN = [gaussian_event(2.0, 0.05, 200)]
BEFORE_KINDS = Path(__file__).parent / "ledger-before-kinds.jsonl"
BUDGET = ("epsilon", "delta", "neighboring_relation")
fork = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledgers" / "data.jsonl"


@pytest.fixture
def ledger(path):
    return Ledger.for_dataset(path, DIGEST, 50_000)


def spent(path, run_id="run"):
    return sum(event.count for event in Ledger(path).open_run(run_id, PLAN))


def record(ledger, times, run_id="run"):
    for _ in range(times):
        ledger.record(run_id, STEP)


def test_what_was_recorded_is_read_back(ledger, path):
    assert ledger.open_run("run", PLAN) == ()
    record(ledger, 3)
    again = Ledger(path)
    assert (again.digest, again.num_examples) == (DIGEST, 50_000)
    assert again.open_run("run", PLAN) == (gaussian_event(2.0, 0.05, 3),)


def test_a_killed_process_has_recorded_all_it_released(ledger, path):
    """The child reports each release after it is recorded; SIGKILL strikes at an arbitrary moment."""
    ledger.open_run("run", [gaussian_event(2.0, 0.05, 10**6)])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            ledger.record("run", STEP)
            os.write(writer, b".")
    released = 0
    while released < 50:
        released += len(os.read(reader, 50))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writer)
    released += len(os.read(reader, 10**6))
    os.close(reader)
    (recorded,) = Ledger(path).open_run("run", [gaussian_event(2.0, 0.05, 10**6)])
    assert released <= recorded.count <= released + 1


@pytest.mark.parametrize("kept", [1, 100, -1])
def test_a_torn_last_line_is_dropped_and_repaired(ledger, path, kept):
    """Its write never returned, so nothing was released for it."""
    ledger.open_run("run", PLAN)
    record(ledger, 3)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: -len(last)] + last[:kept])
    assert spent(path) == 2
    assert path.read_bytes() == whole[: -len(last)]
    record(Ledger(path), 1)
    assert spent(path) == 3


@pytest.mark.parametrize("number", range(6))
def test_an_edited_line_is_noticed(ledger, path, number):
    """Every line, the last one included, whatever the edit: here a digit of any of its values."""
    ledger.set_limit(Budget(8, 1e-5))
    ledger.open_run("run", PLAN)
    record(ledger, 2)
    ledger.close_run("run")
    lines = path.read_text().splitlines(keepends=True)
    entry = json.loads(lines[number])
    entry["time"] = entry["time"].replace("20", "30", 1)
    lines[number] = json.dumps(entry) + "\n"
    path.write_text("".join(lines))
    with pytest.raises(InputError, match="changed or damaged"):
        Ledger(path)


@pytest.mark.parametrize("edit", ["drop", "swap", "repeat", "garbage"])
def test_a_broken_chain_is_noticed(ledger, path, edit):
    ledger.open_run("run", PLAN)
    record(ledger, 3)
    lines = path.read_text().splitlines(keepends=True)
    match edit:
        case "drop":
            del lines[3]
        case "swap":
            lines[3], lines[4] = lines[4], lines[3]
        case "repeat":
            lines.append(lines[-1])
        case "garbage":
            lines[3] = "[]\n"
    path.write_text("".join(lines))
    with pytest.raises(InputError, match="changed or damaged"):
        Ledger(path)


def test_shortening_a_ledger_in_use_is_noticed(ledger, path):
    ledger.open_run("run", PLAN)
    record(ledger, 2)
    path.write_bytes(path.read_bytes().rsplit(b"\n", 2)[0] + b"\n")
    with pytest.raises(InputError, match="shorter"):
        record(ledger, 1)


def at_once(work):
    """Run ``work("left")`` and ``work("right")`` in two processes that start together; their exit codes."""
    start = fork.Barrier(2)

    def main(name):
        start.wait()
        work(name)

    children = [fork.Process(target=main, args=(name,)) for name in ("left", "right")]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def test_two_processes_at_once_lose_nothing(ledger, path):
    def work(run_id):
        own = Ledger(path)
        own.open_run(run_id, PLAN)
        record(own, 100, run_id)

    assert at_once(work) == [0, 0]
    assert spent(path, "left") == spent(path, "right") == 100


def test_of_two_processes_racing_for_the_last_budget_one_wins(ledger, path):
    ledger.set_limit(Budget(1.1 * epsilon(PLAN, 1e-5), 1e-5))
    results = fork.SimpleQueue()

    def work(run_id):
        try:
            Ledger(path).open_run(run_id, PLAN)
            results.put("granted")
        except BudgetExceeded:
            results.put("refused")

    assert at_once(work) == [0, 0]
    assert sorted([results.get(), results.get()]) == ["granted", "refused"]


def test_a_run_over_the_limit_is_refused_and_nothing_is_written(ledger, path):
    ledger.set_limit(Budget(epsilon(PLAN, 1e-5), 1e-5))
    ledger.open_run("first", PLAN)
    before = path.read_bytes()
    with pytest.raises(BudgetExceeded, match="limit"):
        ledger.open_run("second", [STEP])
    assert path.read_bytes() == before


def test_an_open_run_counts_its_plan_and_a_closed_one_what_it_spent(ledger):
    ledger.set_limit(Budget(epsilon(PLAN, 1e-5), 1e-5))
    ledger.open_run("killed", PLAN)
    record(ledger, 5, "killed")
    with pytest.raises(BudgetExceeded):
        ledger.open_run("next", [gaussian_event(2.0, 0.05, 150)])
    ledger.close_run("killed")
    ledger.open_run("next", [gaussian_event(2.0, 0.05, 195)])
    with pytest.raises(BudgetExceeded):
        ledger.open_run("one more", [STEP])


def test_the_limit_is_kept_under_its_own_relation(ledger):
    allowed = epsilon(PLAN, 1e-5, "add_or_remove_one")
    ledger.set_limit(Budget(allowed, 1e-5, "replace_one"))
    with pytest.raises(BudgetExceeded):
        ledger.open_run("run", PLAN)


def test_the_last_limit_counts(ledger, path):
    ledger.set_limit(Budget(0.01, 1e-5))
    with pytest.raises(BudgetExceeded):
        ledger.open_run("run", PLAN)
    ledger.set_limit(Budget(8, 1e-5))
    Ledger(path).open_run("run", PLAN)


def test_without_a_limit_nothing_is_refused(ledger):
    ledger.open_run("run", [gaussian_event(0.01, 1.0, 1000)])


@pytest.mark.parametrize(
    "event", [gaussian_event(1.9, 0.05), gaussian_event(2.0, 0.06), gaussian_event(2.0, 0.05, 201)]
)
def test_a_release_outside_the_plan_is_refused_and_nothing_is_written(ledger, path, event):
    ledger.open_run("run", PLAN)
    before = path.read_bytes()
    with pytest.raises(BudgetExceeded, match="plan"):
        ledger.record("run", event)
    assert path.read_bytes() == before


def test_no_more_than_the_plan_can_be_spent(ledger):
    ledger.open_run("run", [gaussian_event(2.0, 0.05, 2)])
    record(ledger, 2)
    with pytest.raises(BudgetExceeded):
        record(ledger, 1)


def test_an_open_run_is_taken_up_again_only_with_its_own_plan(ledger, path):
    ledger.open_run("run", [gaussian_event(2.0, 0.05, 150), gaussian_event(2.0, 0.05, 50)])
    record(ledger, 7)
    ledger.set_limit(Budget(0.01, 1e-5))  # its reservation stands
    assert Ledger(path).open_run("run", PLAN) == (gaussian_event(2.0, 0.05, 7),)
    with pytest.raises(InputError, match="another plan"):
        Ledger(path).open_run("run", [STEP])


def test_a_closed_run_stays_closed(ledger):
    ledger.open_run("run", PLAN)
    ledger.close_run("run")
    with pytest.raises(InputError, match="closed"):
        ledger.open_run("run", PLAN)
    for action in (
        lambda: record(ledger, 1),
        lambda: ledger.close_run("run"),
        lambda: record(ledger, 1, "none"),
    ):
        with pytest.raises(InputError, match="not open"):
            action()


def test_a_ledger_belongs_to_one_data_set(ledger, path):
    assert Ledger.for_dataset(path, DIGEST, 50_000).digest == DIGEST
    for digest, num_examples in (("cd" * 32, 50_000), (DIGEST, 49_999)):
        with pytest.raises(InputError, match="another data set"):
            Ledger.for_dataset(path, digest, num_examples)


def test_a_limit_needs_a_delta_below_one_over_n(ledger):
    with pytest.raises(InputError, match="1/N"):
        ledger.set_limit(Budget(1, 1e-4))


def test_paths_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    for unusable in (tmp_path / "file" / "ledger.jsonl", tmp_path):
        with pytest.raises(InputError, match="cannot be written"):
            Ledger.for_dataset(unusable, DIGEST, 10)
    with pytest.raises(InputError, match="no ledger"):
        Ledger(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_write_that_fails_leaves_no_trace(ledger, path, monkeypatch):
    ledger.open_run("run", PLAN)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(InputError, match="No space left"):
            record(ledger, 1)
    assert path.read_bytes() == before
    record(ledger, 1)
    assert spent(path) == 1


class LateFile(io.FileIO):
    """A file over a network, whose writing seems to succeed and fails as it is closed."""

    def close(self):
        was_open = not self.closed
        super().close()
        if was_open:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_a_write_that_fails_as_the_file_is_closed_counts(ledger, path, monkeypatch):
    ledger.open_run("run", PLAN)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode, buffering: LateFile(self, mode))
        with pytest.raises(InputError, match="cannot be written: Disk quota exceeded"):
            ledger.record("run", STEP)
    assert spent(path) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_files_cannot_be_locked_nothing_is_spent(ledger, path, monkeypatch, number):
    ledger.open_run("run", PLAN)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(number, os.strerror(number))))
        with pytest.raises(InputError, match=r"cannot be locked: .*; keep it on a file system with locks"):
            ledger.record("run", STEP)
    assert spent(path) == 0


def test_summary(ledger):
    ledger.set_limit(Budget(8, 1e-5))
    ledger.open_run("done", PLAN)
    record(ledger, 20, "done")
    ledger.close_run("done")
    ledger.open_run("open", PLAN)
    record(ledger, 10, "open")
    summary = json.loads(json.dumps(ledger.summary()))

    def cost(count):
        return epsilon([gaussian_event(2.0, 0.05, count)], 1e-5)

    assert summary["epsilon_spent"] == cost(30)
    assert summary["epsilon_counted"] == cost(220)
    told = ("run", "open", "state", "epsilon_spent", "epsilon_planned")
    assert [tuple(run[name] for name in told) for run in summary["runs"]] == [
        ("done", False, "ended early", cost(20), cost(200)),
        ("open", True, "open, may spend the rest", cost(10), cost(200)),
    ]


def test_a_run_is_told_as_it_began(ledger, path):
    """Also where it is taken up elsewhere; a ledger from before there was such a line does not know."""
    about = About("/data/run", "dp-sgd", 40)
    ledger.open_run("run", PLAN, about)
    ledger.open_run("run", PLAN, About("/moved/run", "dp-sgd", 40))
    ledger.open_run("before", [STEP])
    record(ledger, 1, "before")
    ledger.close_run("before")
    run, before = Ledger(path).summary()["runs"]
    assert About(run["folder"], run["method"], run["images"]) == about
    assert About(before["folder"], before["method"], before["images"]) == About()
    assert before["state"] == "complete"
    opened = datetime.fromisoformat(run["opened"])
    assert timedelta() <= datetime.now(UTC) - opened < timedelta(minutes=5)
    old = Ledger(shutil.copy(BEFORE_KINDS, path.with_name("old.jsonl"))).summary()
    assert [(run["folder"], run["method"], run["images"]) for run in old["runs"]] == 2 * [(None, None, None)]
    assert old["runs"][0]["opened"] == old["limits"][0]["time"] == "2026-01-02T03:04:05+00:00"


@pytest.mark.parametrize(
    "fields",
    [
        {"folder": 3},
        {"method": ["dp-sgd"]},
        {"images": "40"},
        {"images": True},
        {"time": 5},
        {"time": "noon"},
    ],
)
def test_a_line_that_tells_something_of_the_wrong_type_is_damage(ledger, path, fields):
    with ledger._locked() as file:
        entry = {"previous": ledger._last_hash, "time": "2026-01-02T03:04:05+00:00", "kind": "open"}
        entry |= {"run": "run", "planned": [written(STEP)], **fields}
        hashed = hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(json.dumps({**entry, "sha256": hashed}).encode() + b"\n")
    with pytest.raises(InputError, match="changed or damaged"):
        Ledger(path)


def test_every_limit_leaves_a_dated_line(ledger, path):
    budgets = [Budget(3, 1e-6), Budget(8, 1e-6), Budget(2, 1e-5, "replace_one")]
    for budget in budgets:
        ledger.set_limit(budget)
    again = Ledger(path)
    limits = again.summary()["limits"]
    assert [Budget(*(one[name] for name in BUDGET)) for one in limits] == budgets
    assert all(abs(datetime.now(UTC) - datetime.fromisoformat(one["time"])).seconds < 300 for one in limits)
    assert again.limit == budgets[-1]


def test_summary_without_a_limit(ledger):
    summary = ledger.summary()
    assert (summary["delta"], summary["epsilon_limit"], summary["limits"]) == (1e-6, None, [])


def test_default_path(monkeypatch):
    monkeypatch.setenv("DPVISION_HOME", "/somewhere")
    assert default_ledger_path("ab") == Path("/somewhere/ledgers/ab.jsonl")
    monkeypatch.delenv("DPVISION_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert default_ledger_path("ab") == Path("/xdg/dpvision/ledgers/ab.jsonl")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_ledger_path("ab") == Path.home() / ".local/share/dpvision/ledgers/ab.jsonl"
