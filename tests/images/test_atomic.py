from __future__ import annotations

import os
from pathlib import Path

import pytest

from dpvision.images.atomic import replacing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "f.txt"
    path.write_text("old")
    return path


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.mark.parametrize(("given", "name"), [(None, ".f.txt.partial"), (".partial", ".partial")])
def test_a_file_is_replaced_when_the_new_one_is_whole(path: Path, given: str | None, name: str) -> None:
    with replacing(path, path.with_name(given) if given else None) as partial:
        partial.write_text("new")
        assert contents(path.parent) == {"f.txt": "old", name: "new"}
    assert contents(path.parent) == {"f.txt": "new"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_alone(path: Path, error: type[BaseException]) -> None:
    def write() -> None:
        with replacing(path) as partial:
            partial.write_text("ne")
            raise error

    with pytest.raises(error):
        write()
    assert contents(path.parent) == {"f.txt": "old"}


def test_a_file_that_cannot_be_replaced_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output error"), replacing(path) as partial:
        partial.write_text("new")
    assert contents(path.parent) == {"f.txt": "old"}


def test_a_folder_that_does_not_exist_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "missing" / "f.txt") as partial:
        partial.write_text("new")
