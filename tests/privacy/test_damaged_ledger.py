"""Whatever is done to the bytes of a ledger, it is noticed, or counts no less than was written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dpvision.privacy import Budget, InputError, Ledger, gaussian_event

DIGEST = "ab" * 32
STEP = gaussian_event(2.0, 0.05)
PLAN = [gaussian_event(2.0, 0.05, 4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a ledger with lines of all kinds."""
    ledger = Ledger.for_dataset(tmp_path / "data.jsonl", DIGEST, 1000)
    ledger.set_limit(Budget(8, 1e-5))
    for run in ("done", "open"):
        ledger.open_run(run, PLAN)
        ledger.record(run, STEP)
    ledger.close_run("done")
    ledger.record("open", STEP)
    return ledger.path


def state(path: Path) -> Any:
    """All that a ledger says."""
    ledger = Ledger(path)
    runs = {
        name: (run.is_open, run.reservation.reserved, run.reservation.spent)
        for name, run in ledger._runs.items()
    }
    return ledger.digest, ledger.num_examples, ledger.limit, runs


def test_every_edit_of_a_byte_is_noticed_or_changes_nothing(path: Path) -> None:
    whole, before = path.read_bytes(), state(path)
    noticed = 0
    for index, byte in enumerate(whole):
        others = {byte ^ 1, byte ^ 0x80, ord("\n"), ord(" "), ord("\r"), 0}
        for other in others - {byte} if byte in b"\n{}" else {byte ^ 1 << index % 8}:
            path.write_bytes(whole[:index] + bytes([other]) + whole[index + 1 :])
            try:
                assert state(path) == before, (index, other)
            except InputError as error:
                assert "changed or damaged" in str(error)  # noqa: PT017
                noticed += 1
            assert len(path.read_bytes()) == len(whole)
    assert noticed > 0.99 * len(whole)


def test_every_cut_loses_whole_lines_at_the_end_and_nothing_else(path: Path) -> None:
    """That much cannot be seen in the file; the runs' own records tell, below."""
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    states = []
    for kept in range(1, len(lines) + 1):
        path.write_bytes(b"".join(lines[:kept]))
        states.append(state(path))
    for size in range(len(lines[0]), len(whole)):
        path.write_bytes(whole[:size])
        assert state(path) == states[whole[:size].count(b"\n") - 1]


def test_a_run_that_has_released_more_than_the_ledger_holds_is_told(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    shown = [gaussian_event(2.0, 0.05, 2)]
    Ledger(path).check_spent("open", shown)
    for kept in range(len(lines)):
        path.write_bytes(b"".join(lines[:kept]))
        with pytest.raises(InputError, match="of the 2 releases that run open has made"):
            Ledger(path).check_spent("open", shown)
        assert path.read_bytes() == b"".join(lines[:kept])
    path.write_bytes(b"".join(lines))
    for other in (gaussian_event(2.1, 0.05), gaussian_event(2.0, 0.06), gaussian_event(2.0, 0.05, 3)):
        with pytest.raises(InputError, match="has lost some"):
            Ledger(path).check_spent("open", [STEP, other])


@pytest.mark.parametrize("longer", [False, True])
def test_a_ledger_that_is_replaced_while_in_use_is_noticed(path: Path, longer: bool) -> None:
    """By another of the same length, or a longer one: an older copy that others have written to since."""
    lines = path.read_bytes().splitlines(keepends=True)
    older = path.with_name("older.jsonl")
    older.write_bytes(b"".join(lines[:-1]))
    in_use = Ledger(path)
    other = Ledger(older)
    other.record("open", STEP)
    if longer:
        other.set_limit(Budget(8, 1e-5))
    replaced = older.read_bytes()
    if replaced.splitlines()[-1 - longer] == lines[-1].rstrip():  # within the same second
        replaced = replaced.replace(b"open", b"0pen")
    path.write_bytes(replaced)
    with pytest.raises(InputError, match="was replaced while in use"):
        in_use.record("open", STEP)
    assert path.read_bytes() == replaced


def test_a_ledger_that_is_deleted_while_in_use_is_noticed(path: Path) -> None:
    ledger = Ledger(path)
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        ledger.record("open", STEP)
    assert not path.exists()


@pytest.mark.parametrize("kind", ["nothing", "a folder", "a pipe"])
def test_what_is_no_file_is_refused_and_not_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forged record may name anything: its own folder, by an empty text, or a pipe to wait for."""
    monkeypatch.setattr(Path, "open", None)
    place = tmp_path / "ledger"
    if kind == "a folder":
        place.mkdir()
    elif kind == "a pipe":
        os.mkfifo(place)
    with pytest.raises(InputError, match=r"there is no ledger at .*ledger; restore it from a copy"):
        Ledger(place)
