from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dpvision.privacy.errors import InputError
from dpvision.runs import RunDirectory
from dpvision.runs.files import read_json, write_atomically

CONFIG = {"epsilon": 2.0}
PRIVATE = {"run_id": "r", "digest": "d", "ledger": "l"}


def test_what_create_wrote_open_finds(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "a" / "run", CONFIG, PRIVATE)
    run = RunDirectory.open(tmp_path / "a" / "run")
    assert (run.config, run.private) == (CONFIG, PRIVATE)
    assert not run.is_released
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "private"]
    assert run.private_path.stat().st_mode & 0o077 == 0  # for the owner's eyes only


def test_an_empty_directory_is_taken_and_any_other_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", CONFIG, PRIVATE)
    with pytest.raises(InputError, match="resume the run in it, or name another"):
        RunDirectory.create(tmp_path / "empty", {"other": 1}, PRIVATE)
    assert RunDirectory.open(tmp_path / "empty").config == CONFIG
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="file"):
            RunDirectory.create(path, CONFIG, PRIVATE)


def test_a_place_that_cannot_be_written_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        RunDirectory.create(tmp_path / "a" / "b" / "run", CONFIG, PRIVATE)
    assert list(tmp_path.iterdir()) == []


def test_discard_takes_back_all_that_create_made(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    RunDirectory.create(tmp_path / "mine" / "a" / "b" / "run", CONFIG, PRIVATE).discard()
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_damaged_records_are_named(tmp_path: Path, content: str) -> None:
    run = RunDirectory.create(tmp_path / "run", CONFIG, PRIVATE)
    (run.path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        RunDirectory.open(run.path)


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run directory"):
        RunDirectory.open(tmp_path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", CONFIG, PRIVATE)
    with (
        run.locked(),
        pytest.raises(InputError, match="another process"),
        RunDirectory.open(run.path).locked(),
    ):
        pass
    with RunDirectory.open(run.path).locked():
        pass


def test_a_release_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(tmp_path / "run", CONFIG, PRIVATE)
    written = []

    def fail_on_the_second(source: Path, target: Path) -> None:
        written.append(target)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_on_the_second)
        with pytest.raises(InputError, match="No space left"):
            run.release({"a": b"1", "b": b"2"})
    assert not run.is_released
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "private"]
    run.release({"a": b"1", "b": b"2"})
    assert {path.name: path.read_bytes() for path in run.release_path.iterdir()} == {"a": b"1", "b": b"2"}


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "f.json", json.dumps({"old": 1}).encode())

    def fail(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match="Input/output error"):
        write_atomically(tmp_path / "f.json", b"new")
    assert read_json(tmp_path / "f.json") == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 1
