"""The pages say what is so: commands are understood, links lead somewhere, and what follows from the code is
up to date.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import typer.main

import dpvision
from checks.reference import FOLDER, all_commands, pages
from dpvision.api.options import RunOptions
from dpvision.cli.main import app
from dpvision.cli.options import with_settings
from dpvision.methods import check_settings, find_method, known_methods
from dpvision.methods.documentation import documented_settings
from dpvision.networks import own

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
FEWEST_COMMANDS = 40
"""There are at least as many in the pages, or else they are not found any more."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `$ dpvision …` of a page."""
    found = []
    for block in blocks(page.read_text(encoding="utf-8"), "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ dpvision"):
                found.append(shlex.split(line.removeprefix("$ dpvision"), comments=True))
    return found


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What a command would be run with. Raises where it would not understand its options."""
    command: Any = typer.main.get_command(app)
    names = list(arguments)
    while hasattr(command, "commands"):
        command = command.commands[names.pop(0)]
    return command.make_context("dpvision", names).params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_understood(page: Path) -> None:
    for arguments in commands(page):
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
    assert sum(len(commands(page)) for page in PAGES) >= FEWEST_COMMANDS


def test_a_command_that_is_wrong_is_seen() -> None:
    with pytest.raises(KeyError):
        parsed(["trian", "photos"])
    with pytest.raises(Exception, match="No such option"):
        parsed(["train", "photos", "--epsilno", "2"])


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


def test_the_network_of_ones_own_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPVISION_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(own, "_OWN", {})
    train, check = blocks((DOCS / "guide" / "own-network.md").read_text(encoding="utf-8"), "python")
    names: dict[str, Any] = {"__name__": "theirs"}
    exec(train, names)
    assert names["result"].epsilon <= 2
    for name, weights in names["result"].model.state_dict().items():
        assert torch.equal(weights, names["model"].state_dict()[name])
    exec(check, names)


def test_the_picture_can_be_drawn() -> None:
    assert ElementTree.parse(DOCS / "picture.svg").getroot().tag.endswith("svg")
