"""docs/guarantee/index.md says what is so: the tests and pages that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "guarantee"
PAGE = (FOLDER / "index.md").read_text(encoding="utf-8")
METHODS_WITH_MISTAKES = 13
"""Rows of pitfalls that published code has, of which each has to be in the table."""


def test_the_tests_that_are_named_exist() -> None:
    rows = [line for line in PAGE.partition("## Pitfalls")[2].splitlines() if line.startswith("| ")]
    pitfalls = [row for row in rows[1:] if "**" not in row]
    assert len(pitfalls) >= METHODS_WITH_MISTAKES
    for row in pitfalls:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE), (
                path,
                name,
            )


def test_the_pages_and_commands_that_are_named_exist() -> None:
    for page in re.findall(r"\]\(([\w./-]+\.md)\)", PAGE):
        assert (FOLDER / page).is_file(), page
    for command in re.findall(r"\bchecks\.(\w+)", PAGE):
        assert (ROOT / "checks" / f"{command}.py").is_file(), command
