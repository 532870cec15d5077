"""The README's examples work as they stand."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from dpvision.cli.main import run
from dpvision.cli.options import collect
from dpvision.methods import check_settings, find_method

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["result"].test_accuracy.value > 0.8  # type: ignore[attr-defined]
    assert names["logits"].shape == (360, 10)  # type: ignore[attr-defined]
    assert "/release" in capsys.readouterr().out


def test_the_recipe_is_understood(tmp_path: Path) -> None:
    (recipe,) = blocks("toml")
    (tmp_path / "recipe.toml").write_text(recipe)
    options = collect(tmp_path / "recipe.toml", None)
    assert options == tomllib.loads(recipe)
    check_settings(find_method("dp-sgd").config_class, options["config"])


def test_the_commands_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [line for block in blocks("console") for line in block.splitlines() if "$ dpvision" in line]
    assert len(commands) >= 7
    monkeypatch.chdir(tmp_path)  # where there are no data and no runs
    for line in commands:
        arguments = shlex.split(line.removeprefix("$ dpvision"), comments=True)
        # What is named does not exist, which is found only once the options were understood.
        assert run(arguments) == 2
        said = capsys.readouterr().err
        assert any(told in said for told in ("does not exist", "missing", "is no folder")), line
