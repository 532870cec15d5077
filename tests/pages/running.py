"""Run the blocks of a page in their order: Python in one namespace, commands as they stand.

The fast tests leave out what takes long: blocks that are marked slow, and the commands that learn (`LEARN`).
What such a command would leave is then left by a quick one on the same data, for what follows; the slow tests
run everything.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import typer.main
import yaml

from checks.doc_blocks import Block, Command, blocks, commands
from dpvision.cli.main import app, run
from dpvision.cli.options import collect
from dpvision.methods import check_settings, find_method
from tests.pages.stand_ins import QUICK, leave

LEARN = {"train", "tune", "sweep", "synthesize", "audit", "resume", "sample", "prior", "pool"}
"""The commands that take long by default: they learn, or make thousands of images."""

MEASURES = r"python (-m checks\.|benchmarks/)"
INSTALLS = r"(\S*python\S* -m )?pip install |make |(docker|podman) |tensorboard "
"""Commands of which only the form is tried: they take hours, or change the machine."""

_TOKEN = re.compile(r"(?P<space>\s+)|(?P<any>…)|(?P<number>[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?)")


class PageRun:
    """The blocks of a page, run in the current folder.

    Args:
        page: the page.
        whole: whether slow ones are run too.

    Attributes:
        names: what the Python blocks have defined.
        left_out: where something was not run, and why.
    """

    def __init__(self, page: Path, whole: bool) -> None:
        self.blocks, self.whole = blocks(page), whole
        self.left_out: list[tuple[str, str]] = []
        self._module = ModuleType("page")
        self._misses_names = False

    @property
    def names(self) -> dict[str, Any]:
        return vars(self._module)

    def run(self) -> None:
        known = {"python": self._python, "console": self._console, "toml": _toml, "yaml": _yaml}
        known |= {"bash": _shell, "sh": _shell, "text": _text}
        sys.modules["page"] = self._module  # where dataclasses and pickle look for what a block defines
        try:
            for block in self.blocks:
                assert block.language in known, f"{block.where}: its language is none of {', '.join(known)}"
                known[block.language](block)
        finally:
            del sys.modules["page"]

    def _python(self, block: Block) -> None:
        code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
        slow = block.mark == "slow" or self._misses_names
        if block.mark == "not run" or (slow and not self.whole):
            self._misses_names = True
            self.left_out.append(
                (block.where, block.reason or "it may need what a slow block before it makes")
            )
            return
        for name in re.findall(r'\bout="([\w/.-]+)"', block.text):
            _clear(Path(name))
        exec(code, self.names)

    def _console(self, block: Block) -> None:
        found = commands(block)
        assert found, f"{block.where}: no line begins with '$ '"
        for command in found:
            where = f"{block.page}:{command.line}: $ {command.text}"
            if command.arguments[0] == "dpvision":
                parsed(command.arguments[1:])
            if reason := self._why_not(block, command):
                self.left_out.append((where, reason))
                if not self.whole and block.mark != "not run" and not command.exit_code:
                    self._leave(command)
                continue
            _clear_outs(command)
            code, printed = _run(command)
            printed = printed.replace(f"{Path.cwd()}/", "")  # pages shorten paths
            assert code == command.exit_code, f"{where}\nexit code {code}; it printed\n{printed}"
            if block.mark != "other output":
                assert re.search(as_pattern(command.shown), printed), f"{where}\nprinted\n{printed}"

    def _why_not(self, block: Block, command: Command) -> str:
        """Why a command is not run; empty where it is."""
        if block.mark == "not run":
            return block.reason
        if re.match(f"{MEASURES}|{INSTALLS}", command.text):
            return "its form is tried"
        if "--tensorboard" in command.arguments and find_spec("tensorboard") is None:
            return "TensorBoard is not installed"
        if self.whole:
            return ""
        if block.mark == "slow":
            return block.reason
        if command.arguments[0] != "dpvision":
            return "it starts programs"
        return "it takes long" if command.arguments[1] in LEARN else ""

    def _leave(self, command: Command) -> None:
        """Put a quick run where that of a command would be, if anything that follows takes it."""
        if command.arguments[0] != "dpvision" or command.arguments[1] not in QUICK:
            return
        given = parsed(command.arguments[1:])
        data, place = given.get("data"), str(given.get("out"))
        if data and re.search(rf"(?<!out ){re.escape(place)}\b", self._after(command)):
            _clear(Path(place))
            leave(command.arguments[1], str(data), Path(place))

    def _after(self, command: Command) -> str:
        """What is run after a command."""
        lines = [
            text
            for block in self.blocks
            for number, text in enumerate(block.text.splitlines(), block.line)
            if number > command.line and block.mark not in ("slow", "not run")
        ]
        return "\n".join(lines)


def parsed(arguments: tuple[str, ...]) -> dict[str, Any]:
    """What a command would be run with. Raises where it would not understand its options."""
    command: Any = typer.main.get_command(app)
    names = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[names.pop(0)]
    params: dict[str, Any] = command.make_context("dpvision", names).params
    return params


def as_pattern(shown: str) -> str:
    """What a page shows as a pattern: with any numbers, however it is wrapped, and with anything for "…"."""
    parts, end = [], 0
    for token in _TOKEN.finditer(shown.strip()):
        parts.append(re.escape(shown.strip()[end : token.start()]))
        parts.append({"space": r"\s+", "any": ".*?", "number": r"[-+]?\d[\d.,e+-]*"}[str(token.lastgroup)])
        end = token.end()
    return "(?s)" + "".join([*parts, re.escape(shown.strip()[end:])])


def _toml(block: Block) -> None:
    """What has a budget is a recipe, which the commands understand."""
    found = tomllib.loads(block.text)
    if "epsilon" in found:
        Path("recipe.toml").write_text(block.text)
        options = collect(Path("recipe.toml"), None)
        assert options == found
        method = find_method(options.get("method", "dp-sgd"))
        check_settings(method.config_class, options.get("config", {}))


def _yaml(block: Block) -> None:
    assert yaml.safe_load(block.text)


def _shell(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=True)
    assert done.stderr == "", f"{block.where}: {done.stderr}"


def _text(block: Block) -> None:
    code = re.search(r"^(\$|>>>|import|from \S+ import) ", block.text, re.MULTILINE)
    assert not code, f"{block.where}: this is no text, but code"


def _run(command: Command) -> tuple[int, str]:
    """The exit code of a command and all that it prints: in this process, or else by a shell."""
    if command.arguments[0] == "dpvision" and not {"|", ">", "&&", "<", ";"} & set(command.arguments):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = run(command.arguments[1:])
        return code, printed.getvalue()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command.text],
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout


def _clear_outs(command: Command) -> None:
    """Remove what a command writes to: a page shows several that write to the same place."""
    if command.exit_code == 0:
        for flag, value in zip(command.arguments, command.arguments[1:], strict=False):
            if flag == "--out":
                _clear(Path(value))


def _clear(place: Path) -> None:
    assert not place.is_absolute(), place
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
