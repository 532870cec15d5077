"""The pages say what is so: commands are understood, links lead somewhere, and what follows from the code is
up to date.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import dpvision
from checks.doc_blocks import DOCS, ROOT, blocks, commands
from checks.doc_blocks import pages as all_pages
from checks.reference import FOLDER, all_commands, pages
from dpvision.api.options import RunOptions
from dpvision.cli.options import with_settings
from dpvision.methods import check_settings, find_method, known_methods
from dpvision.methods.documentation import documented_settings
from tests.pages.running import parsed

PAGES = all_pages()
FEWEST_COMMANDS = 40
"""There are at least as many in the pages, or else they are not found any more."""


def dpvision_commands(page: Path) -> list[tuple[str, ...]]:
    """The arguments of each `$ dpvision …` of a page."""
    found = [command for block in blocks(page, "console") for command in commands(block)]
    return [command.arguments[1:] for command in found if command.arguments[0] == "dpvision"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(page: Path) -> None:
    for arguments in dpvision_commands(page):
        given = parsed(arguments)
        if "settings" not in given or "method" not in given:
            continue
        settings = with_settings({}, given["settings"] or [])
        method = given["method"] or ("dp-moments" if arguments[0] == "synthesize" else "dp-sgd")
        settings |= {name: given[name] for name in ("phase_iii", "pool") if given.get(name)}
        check_settings(find_method(method).config_class, settings)
        if given.get("epsilon") is not None:
            options = {name: given[name] for name in ("epsilon", "delta", "seed", "num_examples")}
            RunOptions.of(options | {"method": method})


def test_there_are_commands_to_understand() -> None:
    assert sum(len(dpvision_commands(page)) for page in PAGES) >= FEWEST_COMMANDS


def anchors(page: Path) -> set[str]:
    """Where a link may lead within a page, as GitHub names its headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [link for link in found if not link.startswith(("http:", "https:"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_found_from_the_first() -> None:
    linked = {(DOCS / link.partition("#")[0]).resolve() for link in links(DOCS / "index.md")}
    assert {page for page in DOCS.rglob("*.md") if page.name != "index.md"} <= linked
    assert (DOCS / "index.md").resolve() in {(ROOT / link).resolve() for link in links(ROOT / "README.md")}


def test_files_that_are_named_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"(?<![\w/])((?:recipes|benchmarks|checks)/[\w./*-]+\.(?:toml|py))\b", text):
            there = [*ROOT.glob(name), *(ROOT / "tests").glob(name)]
            assert there, f"{page.name}: {name}"


@pytest.mark.parametrize("name", ["settings.md", "command-line.md", "python.md"])
def test_pages_made_of_the_code_are_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == pages()[name], "run python -m checks.reference"


def test_every_command_and_name_is_in_the_reference() -> None:
    commands_page = (FOLDER / "command-line.md").read_text(encoding="utf-8")
    assert all(f"`dpvision {name}`" in commands_page for name, _ in all_commands())
    python_page = (FOLDER / "python.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in python_page for name in dpvision.__all__)


@pytest.mark.parametrize("name", list(known_methods()))
def test_every_setting_says_what_it_does(name: str) -> None:
    settings = documented_settings(find_method(name).config_class)
    helps = [one.help for one in settings]
    assert len(set(helps)) == len(helps), "two settings share a sentence"
    for one in settings:
        assert len(one.help.split()) >= 4, one.name
        assert one.help.endswith("."), one.name
        assert not one.help.startswith("see "), one.name


@pytest.mark.parametrize("name", ["train", "plan", "synthesize", "audit"])
def test_help_says_where_settings_are(name: str) -> None:
    said = " ".join(getattr(one, "help", None) or "" for one in dict(all_commands())[name].params)
    assert "`dpvision settings METHOD`" in said
    assert "docs/reference/settings.md" in said


def test_the_picture_can_be_drawn() -> None:
    assert ElementTree.parse(DOCS / "picture.svg").getroot().tag.endswith("svg")
