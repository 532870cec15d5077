"""Completion, by the protocol of the shells' own scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dpvision.cli.main import run
from dpvision.methods.registry import known_methods

Offered = Callable[[str], list[str]]


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offered:
    """What is offered in place of the last word of a line, in a folder with some files."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "bees.csv").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_DPVISION_COMPLETE", "complete_bash")

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        with pytest.raises(SystemExit) as ended:
            run([])
        assert not ended.value.code
        return capsys.readouterr().out.split()

    return complete


def test_commands(offered: Offered) -> None:
    assert offered("dpvision tr") == ["train"]
    assert offered("dpvision pool m") == ["make"]


def test_options(offered: Offered) -> None:
    assert offered("dpvision train photos --eps") == ["--epsilon"]


def test_methods(offered: Offered) -> None:
    assert offered("dpvision train photos --method dp-r") == ["dp-randp", "dp-ridge"]
    assert offered("dpvision settings ") == list(known_methods())
    assert "auto" in offered("dpvision plan photos --method ")


def test_data(offered: Offered) -> None:
    assert offered("dpvision train b") == ["bundled:digits", "bees.csv"]
    assert offered("dpvision train p") == ["photos/"]
    assert offered("dpvision evaluate run ") == ["bundled:digits", "bees.csv", "photos/"]
    assert offered("dpvision train nowhere/") == []


def test_links_that_go_round_and_names_of_several_lines_do_no_harm(
    offered: Offered, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("loop").symlink_to("loop")
    Path("two\nlines").touch()
    Path(os.fsdecode(b"no-text-\xff")).touch()
    assert offered("dpvision train ./") == ["./bees.csv", "./loop", "./photos/"]
    assert offered("dpvision train l") == ["loop"]
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert offered("dpvision train ~/p") == ["~/photos/"]


def test_values_of_options(offered: Offered) -> None:
    assert offered("dpvision plan photos --relation ") == ["add_or_remove_one", "replace_one"]


def test_settings_are_those_of_the_method(offered: Offered) -> None:
    assert offered("dpvision train photos --method dp-sgd --set step") == ["steps="]
    assert offered("dpvision train photos --method dp-ridge --set step") == []
    assert "steps=" in offered("dpvision train photos --set st")
    assert "learning_rate=" in offered("dpvision tune photos --method dp-sgd --search learn")


def test_a_path_is_left_to_the_shell(offered: Offered) -> None:
    """Which completes files where nothing is offered."""
    assert offered("dpvision resume pho") == []


LINE = "dpvision train photos --method dp-r"


@pytest.mark.parametrize(
    ("shell", "said"),
    [("zsh", ['"dp-randp"', '"dp-ridge"']), ("fish", ["dp-randp", "dp-ridge"])],
)
def test_other_shells(shell: str, said: Sequence[str]) -> None:
    asked = {"_TYPER_COMPLETE_ARGS": LINE, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    found = in_a_process(PROGRAM, _DPVISION_COMPLETE=f"complete_{shell}", **asked)
    assert all(one in found for one in said)
    assert "dp-sgd" not in found


PROGRAM = "from dpvision.cli.main import main; main()"
TELLS_WHAT_IS_IMPORTED = f"""
import atexit, sys
atexit.register(lambda: print([one for one in ("torch", "numpy", "scipy") if one in sys.modules]))
{PROGRAM}
"""


def test_it_imports_nothing_heavy() -> None:
    asked = {"_DPVISION_COMPLETE": "complete_bash", "COMP_WORDS": f"{LINE} --set s", "COMP_CWORD": "6"}
    *offered, heavy = in_a_process(TELLS_WHAT_IS_IMPORTED, **asked).splitlines()
    assert "steps=" in offered
    assert heavy == "[]"


def in_a_process(program: str, **variables: str) -> str:
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    return done.stdout


ASK = """
source <(_DPVISION_COMPLETE=source_bash dpvision)
COMP_WORDS=(dpvision settings dp-mi); COMP_CWORD=2
_dpvision_completion dpvision
echo "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_by_the_script_that_is_shown(tmp_path: Path) -> None:
    """As a terminal does: the script is sourced, and its function asked."""
    command = tmp_path / "dpvision"
    command.write_text(f"#!{sys.executable}\n{PROGRAM}\n")
    command.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dp-mix-self", "dp-mix-diff"]
