"""The README's commands are refused in a sentence where there are neither data nor runs.

That its examples work is tried with those of all pages (`tests/pages/test_blocks.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from checks.doc_blocks import ROOT, blocks, commands
from dpvision.cli.main import run


def test_the_commands_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [command for block in blocks(ROOT / "README.md", "console") for command in commands(block)]
    ours = [command.arguments[1:] for command in found if command.arguments[0] == "dpvision"]
    assert len(ours) >= 7
    monkeypatch.chdir(tmp_path)  # where there are no data and no runs
    for arguments in ours:
        if arguments in (("doctor",), ("runs", ".")):  # which name nothing that does not exist
            continue
        # What is named does not exist, which is found only once the options were understood.
        assert run(arguments) == 2, arguments
        said = capsys.readouterr().err
        assert any(told in said for told in ("does not exist", "missing")), arguments
