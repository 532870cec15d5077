"""An entry comes back from its YAML as it was, whatever strangers have named."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dpvision.reports.registry_yaml import registry_yaml

HOSTILE = [
    "cat\ndog",
    "a: b",
    "- x\n- y",
    "{}",
    "[1, 2",
    "!!python/object/apply:os.system ['true']",
    "&anchor",
    "*alias",
    "# no comment",
    "\"double\" and 'single'",
    "---\n...\n",
    "%YAML 1.1",
    "yes",
    "null",
    "1e3",
    "2026-11-30",
    "  ahead and behind  ",
    "\n\n  indented\n",
    "tab\tand\r\nreturn",
    "\x1b[31mred\x00",
    "\x85 \u2028 \u2029 \ufeff",
    "\u202eright to left",
    "Ärzte, 医者, 😀",
    "\ud800 alone",
    "<script>alert(1)</script>",
    "",
    "x" * 500,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_comes_back(text: str) -> None:
    entry = {"name": text, "all": [text, {text: text}], "more": f"one\n- {text}\ntwo"}
    written = registry_yaml(entry)
    assert yaml.safe_load(written) == entry
    assert all(line.isprintable() for line in written.split("\n"))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(), st.text(st.characters(exclude_categories=[]) | st.sampled_from(" \n-:#'"))))
def test_any_text_comes_back(entry: dict[str, str]) -> None:
    assert yaml.safe_load(registry_yaml(entry)) == entry


def test_lines_of_text_stay_lines_and_numbers_stay_numbers() -> None:
    written = registry_yaml({"text": "- one\n- two", "delta": 1e-6, "day": "2026-11-30", "n": 1})
    assert written == "text: |-\n  - one\n  - two\ndelta: 1.0e-06\nday: '2026-11-30'\nn: 1\n"
    assert yaml.safe_load(written)["delta"] == 1e-6
