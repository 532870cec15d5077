"""Every extra says what it is for, and is named where its library is missing."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpvision.api.installation import FOR_DEVELOPERS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guide" / "installing.md"
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
EXTRAS: dict[str, list[str]] = tomllib.loads(TEXT)["project"]["optional-dependencies"]
FOR_USERS = sorted(EXTRAS.keys() - FOR_DEVELOPERS)
FILES = sorted((ROOT / "src").rglob("*.py"))
CALLED_OTHERWISE = {"open_clip_torch": "open_clip"}
"""Modules whose names do not follow from that of their distribution."""


def modules_of(extra: str) -> set[str]:
    names = (re.match(r"[\w.-]+", one)[0] for one in EXTRAS[extra])  # type: ignore[index]
    return {CALLED_OTHERWISE.get(name, name.replace("-", "_")) for name in names}


def imports(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    """Each module that a file imports, with the extra that `import_extra` names where it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((one.name.partition(".")[0], None) for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0], None
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
            given = [*node.args[2:], *(one.value for one in node.keywords if one.arg == "extra")]
            module = ast.literal_eval(node.args[0])
            constants = [one.value for one in given if isinstance(one, ast.Constant)]
            yield module.partition(".")[0], constants[0] if constants else module.partition(".")[0]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_says_what_it_is_for(extra: str) -> None:
    assert re.search(rf"^#.*\n(?:\w+ = .*\n)*{extra} = ", TEXT, re.M), (
        f"pyproject.toml has no comment above the extra '{extra}' that says what it is for"
    )
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert any(f"`{extra}`" in row for row in rows), (
        f"docs/guide/installing.md has no row for the extra '{extra}' of pyproject.toml; add one to its table"
    )


def test_where_an_optional_library_is_missing_its_extra_is_named() -> None:
    """By the file that imports it, or one beside that, which asks first."""
    for path in FILES:
        for module, named in imports(ast.parse(path.read_text(encoding="utf-8"))):
            of = [extra for extra in FOR_USERS if module in modules_of(extra)]
            if of:
                said = {named} if named else in_messages(*path.parent.glob("*.py"))
                assert said & set(of), f"{path} imports {module} and does not name 'dpvision[{of[0]}]'"


def test_an_extra_that_is_named_is_one() -> None:
    called = {extra for path in FILES for _, extra in imports(ast.parse(path.read_text(encoding="utf-8")))}
    assert in_messages(*FILES) | called - {None} <= EXTRAS.keys()


def in_messages(*paths: Path) -> set[str]:
    return {
        one for path in paths for one in re.findall(r"dpvision\[(\w+)\]", path.read_text(encoding="utf-8"))
    }
