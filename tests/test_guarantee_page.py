"""docs/guarantee/ says what is so: the tests, mutants and pages that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "guarantee"
PAGE = (FOLDER / "index.md").read_text(encoding="utf-8")
PITFALLS = (FOLDER / "pitfalls.md").read_text(encoding="utf-8")
METHODS_WITH_MISTAKES = 13
"""Rows of pitfalls that published code has, of which each has to be in the table."""


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of each row of the tables of a page that begin so, without their headings."""
    found = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [
        [cell.strip() for cell in row.strip("|").split(" | ")] for rows in found for row in rows.splitlines()
    ]


def test_the_tests_and_mutants_that_are_named_exist() -> None:
    words = {row[0] for row in table(PITFALLS, "word")}
    pitfalls = table(PITFALLS, "pitfall")
    assert len(pitfalls) >= METHODS_WITH_MISTAKES
    for pitfall, how_bad, how, shown in pitfalls:
        assert how_bad in words, pitfall
        assert len(how.split()) >= 3, pitfall
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", shown)
        assert named, pitfall
        for path, name in named:
            text = (ROOT / "tests" / path).read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), (path, name)
        for mutant in re.findall(r"`([\w-]+)`", shown):
            text = (ROOT / "checks" / "mutants" / f"{mutant}.patch").read_text(encoding="utf-8")
            assert any(f"Killed by: tests/{path}::{name}" in text for path, name in named), mutant


def test_every_section_of_pitfalls_says_what_remains_ones_own() -> None:
    sections = PITFALLS.split("\n## ")[1:]
    assert len(sections) == len(re.findall(r"^\*\*Yours\.\*\* \w", PITFALLS, re.MULTILINE))
    assert all("**Yours.**" in section and "| pitfall |" in section for section in sections)


def test_the_pages_and_commands_that_are_named_exist() -> None:
    for page in re.findall(r"\]\(([\w./-]+\.md)\)", PAGE):
        assert (FOLDER / page).is_file(), page
    for command in re.findall(r"\bchecks\.(\w+)", PAGE):
        assert (ROOT / "checks" / f"{command}.py").is_file(), command
