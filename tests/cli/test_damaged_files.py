"""A ledger, checkpoint or record that was changed: one sentence, exit code 2, nothing spent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dpvision.cli.main import run
from dpvision.runs import FileCheckpoints

CheckSentence = Callable[[list[str], str], None]
OPTIONS = ["--epsilon", "2", "--set", "network=linear", "--set", "steps=3", "--set", "expected_batch_size=8"]


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run that the user interrupted after its second step."""
    saves = 0
    real = FileCheckpoints.save

    def save(*arguments: object, **options: object) -> None:
        nonlocal saves
        saves += 1
        if saves == 2:
            raise KeyboardInterrupt
        real(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FileCheckpoints, "save", save)
        assert run(["train", "bundled:digits", "--out", str(tmp_path / "run"), *OPTIONS]) == 130
    assert "dpvision resume" in capsys.readouterr().err
    return tmp_path / "run"


def flip(path: Path, index: int) -> bytes:
    content = bytearray(path.read_bytes())
    content[index] ^= 1
    path.write_bytes(content)
    return bytes(content)


def test_an_edited_ledger(begun: Path, check_sentence: CheckSentence) -> None:
    (ledger,) = (Path(os.environ["DPVISION_HOME"]) / "ledgers").iterdir()
    changed = flip(ledger, -9)
    for command in (
        ["resume", str(begun)],
        ["ledger", "bundled:digits"],
        ["train", "bundled:digits", "--out", str(begun.with_name("other")), *OPTIONS],
        ["synthesize", "bundled:digits", "--epsilon", "1", "--out", str(begun.with_name("other"))],
    ):
        check_sentence(command, "was changed or damaged at byte")
    assert ledger.read_bytes() == changed
    assert [path.name for path in begun.parent.iterdir()] == ["run"]
    flip(ledger, -9)
    assert run(["resume", str(begun)]) == 0


@pytest.mark.parametrize("name", ["private/checkpoint.safetensors", "private/run.json", "config.json"])
def test_a_damaged_file_of_a_run(begun: Path, name: str, check_sentence: CheckSentence) -> None:
    (ledger,) = (Path(os.environ["DPVISION_HOME"]) / "ledgers").iterdir()
    before = ledger.read_bytes()
    flip(begun / name, -9)
    check_sentence(["resume", str(begun)], "changed or damaged")
    assert ledger.read_bytes() == before
    flip(begun / name, -9)
    assert run(["resume", str(begun)]) == 0


def test_a_ledger_that_is_gone(begun: Path, check_sentence: CheckSentence) -> None:
    (ledger,) = (Path(os.environ["DPVISION_HOME"]) / "ledgers").iterdir()
    away = ledger.rename(ledger.with_name("away"))
    check_sentence(["resume", str(begun)], "restore it from a copy")
    assert not ledger.exists()
    away.rename(ledger)
    assert run(["resume", str(begun)]) == 0
