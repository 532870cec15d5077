"""Find the code of the documentation: the fenced blocks of a page, and the commands of those for the console.

A comment on the line before a block says that it is run otherwise than the others (`tests/pages/`):

    <!-- slow: 100 steps -->                      by the slow tests alone
    <!-- other output: of a million images -->    it is run, but what it shows is not what it prints here
    <!-- not run: it downloads 500 MB -->         by none; its commands are still parsed
"""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

_FENCED = re.compile(
    r"(?:^ *<!-- (?P<mark>slow|other output|not run): (?P<reason>[^\n]+) -->\n\n?)?"
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_COMMAND = re.compile(r"^\$ ((?:[^\n]*\\\n)*[^\n]*)\n(.*?)(?=^\$ |\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it is, relative to the repository, and ``line`` the number of its first line there.
        language: what stands behind the fence.
        text: what is in it, without the indentation of the fence.
        mark: "slow", "other output", "not run" or "", and ``reason`` what is said of it.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str = ""
    reason: str = ""

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a console block.

    Attributes:
        line: the number of its line in the page.
        text: as a shell takes it, without the prompt.
        arguments: its words.
        exit_code: 2 where the page shows an error, what a comment "exit code 1" says, or else 0.
        shown: what the page shows that it prints; nothing where the page does not show it.
    """

    line: int
    text: str
    arguments: tuple[str, ...]
    exit_code: int
    shown: str


def pages() -> list[Path]:
    """Return every page of the documentation, the README and CONTRIBUTING.md among them."""
    return sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page in their order, or those of one language."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            page=page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name,
            line=text.count("\n", 0, one.start("text")) + 1,
            language=one["language"],
            text=textwrap.dedent(one["text"]) if one["indent"] else one["text"],
            mark=one["mark"] or "",
            reason=one["reason"] or "",
        )
        for one in _FENCED.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]


def commands(block: Block) -> list[Command]:
    """Return the commands of a console block: lines that begin with "$ ", gone on with after a backslash."""
    found = []
    for one in _COMMAND.finditer(block.text):
        text, shown = one[1].replace("\\\n", " "), one[2]
        words = tuple(shlex.split(text, comments=True))
        told = re.search(r"# exit code (\d)", text)
        fails = 2 if re.search(r"^error: ", shown, re.MULTILINE) else 0
        found.append(
            Command(
                line=block.line + block.text.count("\n", 0, one.start()),
                text=text,
                arguments=words,
                exit_code=int(told[1]) if told else fails,
                shown=shown,
            )
        )
    return found
