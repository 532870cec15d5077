"""Every block of the documentation does what it says: those of a new page too, which needs no word here."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checks.doc_blocks import ROOT, blocks, commands, pages
from dpvision.methods import known_methods
from tests.pages.running import PageRun, as_pattern, parsed
from tests.pages.stand_ins import leave_the_hub_alone, make

PAGES = [page for page in pages() if blocks(page)]
MOST_NOT_RUN = 20
"""Blocks that no test runs, each with its reason in the page. A block that joins them is noticed here."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def readme(names: dict[str, Any], printed: str) -> None:
    assert names["result"].test_accuracy.value > 0.8
    assert names["logits"].shape == (360, 10)


def hugging_face(names: dict[str, Any], printed: str) -> None:
    assert f"model {names['found'].sha256}" in printed
    assert "True" in printed
    assert "100 images of 1×8×8" in printed
    assert len(names["more"]) == 50


def own_network(names: dict[str, Any], printed: str) -> None:
    assert names["result"].epsilon <= 2
    for weight, released in names["model"].state_dict().items():
        assert released.equal(names["result"].model.state_dict()[weight])


def scikit_learn(names: dict[str, Any], printed: str) -> None:
    assert names["digits"].score(names["X_test"], names["y_test"]) > 0.8
    for refusal in ("GridSearchCV fits many times", "again=True insists", "the step 'standardscaler'"):
        assert printed.count(refusal) == 1


RESULTS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "README.md": readme,
    "docs/guide/hugging-face.md": hugging_face,
    "docs/guide/own-network.md": own_network,
    "docs/guide/scikit-learn.md": scikit_learn,
}
"""What the Python blocks of some pages must have defined and printed."""


def run_page(page: Path, whole: bool) -> PageRun:
    """Run the blocks of a page in the current folder; methods that are installed are looked for anew."""
    known_methods.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch:
            leave_the_hub_alone(Path.cwd(), patch)
            make(page, Path.cwd(), patch)
            ran = PageRun(page, whole)
            ran.run()
    finally:
        known_methods.cache_clear()
    return ran


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_is_quick(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run_page(page, whole=False)
    if look := RESULTS.get(name(page)):
        look(ran.names, capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_all_of_a_page(page: Path) -> None:
    run_page(page, whole=True)


def test_few_blocks_are_not_run() -> None:
    marked = [block for page in PAGES for block in blocks(page) if block.mark == "not run"]
    listed = "\n".join(f"{block.where}: {block.reason}" for block in marked)
    assert 0 < len(marked) <= MOST_NOT_RUN, listed
    assert all(len(block.reason.split()) >= 3 for block in marked), listed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_or_mark_is_overlooked(page: Path) -> None:
    """A fence that is not understood, or a mark that stands elsewhere, would leave a block out unnoticed."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found = blocks(page)
    assert sum(line.lstrip().startswith(("```", "~~~")) for line in lines) == 2 * len(found)
    marks = [line for line in lines if re.match(r"\s*<!-- (slow|other output|not run)\b", line)]
    assert len(marks) == sum(bool(block.mark) for block in found), marks
    for block in found:
        if block.language == "console":
            assert len(commands(block)) == sum(line.startswith("$ ") for line in block.text.splitlines())


PAGE = """
```python
count = 1
```

<!-- slow: it takes an hour -->
```python
count = 2
```

```console
$ dpvision noise --target-epsilon 1 --sample-rate 0.02 --steps 500 --delta 1e-6
{shown}
```
"""


@pytest.mark.parametrize("whole", [False, True])
def test_slow_blocks_are_run_by_slow_tests(whole: bool) -> None:
    page = Path("page.md")
    page.write_text(PAGE.replace("{shown}", "2.1 (spends …"))
    ran = PageRun(page, whole)
    ran.run()
    assert ran.names["count"] == 1 + whole
    assert [reason for _, reason in ran.left_out] == ["it takes an hour"] * (not whole)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("count = 1", "count = undefined"),
        ("```python", "```pyhton"),
        ("--steps 500", "--setps 500"),
        ("--steps 500", "--steps -500"),
        ("{shown}", "another thing"),
        ("{shown}", "error: that is no number"),
        ("```python\ncount = 1", "```text\nimport math"),
    ],
)
def test_a_block_that_is_wrong_is_seen(old: str, new: str) -> None:
    page = Path("page.md")
    page.write_text(PAGE.replace(old, new, 1).replace("{shown}", "…"))
    with pytest.raises(Exception, match=r".+"):
        PageRun(page, whole=False).run()


def test_what_is_shown_may_have_other_numbers_and_line_ends() -> None:
    shown = as_pattern("accuracy   96.20% (95 % interval 1e-05)\nleft out 3 of …; go on")
    assert re.search(shown, "x\naccuracy 8.1% (95 %\n interval 0.5)\nleft out 12 of those; go on\n")
    assert not re.search(shown, "accuracy 8.1% (95 % interval 0.5)\nleft out many of those; go on")


def test_a_command_that_is_wrong_is_seen() -> None:
    with pytest.raises(KeyError):
        parsed(("trian", "photos"))
    with pytest.raises(Exception, match="No such option"):
        parsed(("train", "photos", "--epsilno", "2"))
