"""The documentation becomes a site without a warning, and every page is in its contents."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from checks.doc_blocks import DOCS, ROOT

pytest.importorskip("sphinx")
pytest.importorskip("myst_parser")
pytest.importorskip("furo")


@pytest.fixture(scope="module")
def conf() -> Any:
    spec = importlib.util.spec_from_file_location("site_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_contents(conf: Any) -> None:
    source = [(DOCS / "index.md").read_text(encoding="utf-8")]
    conf.add_contents(None, "docs/index", source)
    (shown, *hidden) = source[0].split("```{toctree}")
    listed = re.findall(r"^([\w/-]+)$", "\n".join(hidden), re.MULTILINE)
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")} - {"index"}
    assert pages <= set(listed)
    assert len(listed) == len(set(listed))
    captions = re.findall(r"^:caption: (.*)$", "\n".join(hidden), re.MULTILINE)
    assert captions == re.findall(r"^## (.*)$", shown, re.MULTILINE)


def test_other_pages_are_left_as_they_are(conf: Any) -> None:
    source = ["## Guide\n\n| [A](a.md) | b |\n"]
    conf.add_contents(None, "docs/house", source)
    assert source == ["## Guide\n\n| [A](a.md) | b |\n"]


def test_it_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-W", "--keep-going", "-q", ".", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").exists()
    assert (tmp_path / "searchindex.js").exists()
    of_train = (tmp_path / "docs" / "api" / "dpvision.html").read_text(encoding="utf-8")
    assert "epsilon" in of_train
    for card in (tmp_path / "_downloads").glob("*/card.html"):
        assert card.read_bytes() == (DOCS / "sample-card" / "card.html").read_bytes()
