"""JSON, TOML and JSON lines made to do harm, and texts that terminals and browsers would obey."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpvision.cli.main import run
from dpvision.cli.output import printable, table
from dpvision.images.files import MAX_NESTING, MAX_TEXT_BYTES, parse_json, read_json
from dpvision.privacy import Ledger
from dpvision.privacy.errors import InputError
from dpvision.reports.markdown import in_markdown
from dpvision.runs import Metrics, RunDirectory
from dpvision.runs.metrics import read_metrics
from dpvision.views.pool import pool_provenance

CheckRefused = Callable[..., None]

NO_JSON = [
    b"",
    b"[]",
    b"null",
    b"\xff\xfe",
    b"\xff" * 99,
    b"[" * 10**6,
    b'{"a":' * 10**6,
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1, "a": 1}',
    b'{"b": [{"a": 1, "c": 2, "a": 3}]}',
    b'{"a": ' + b"1" * 5000 + b"}",
    b'{"a": ' + b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1) + b"}",
    b"{" + b" " * MAX_TEXT_BYTES + b"}",
]


@pytest.mark.parametrize("content", NO_JSON, ids=range(len(NO_JSON)))
def test_json_that_is_none(content: bytes, tmp_path: Path, check_refused: CheckRefused) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        read_json(tmp_path / "x.json")
    for target, others in (("classifier", 1), ("pool", 1), ("run", 4), ("unfinished", 1)):
        check_refused(target, [content, *[b"{}"] * others], most_mib=300)


@given(st.integers(0, 2 * MAX_NESTING))
def test_json_may_be_as_deep_as_the_bound(depth: int) -> None:
    text = "[" * depth + "1" + "]" * depth
    if depth < MAX_NESTING:
        parse_json(text)
    else:
        with pytest.raises(ValueError, match="too deeply"):
            parse_json(text)


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 10**4,
        b"a = " + b"[" * 100 + b"]" * 100,
        b"config = " + b"{a=" * 100 + b"1" + b"}" * 100,
        b"a." * 5000 + b"b = 1",
        b"[" + b"a." * 100 + b"b]",
        b"epsilon = nan",
        b"seed = " + b"9" * 5000,
        b"\xff",
        b"data = '\0'",
        b"data = 1979-05-27T07:32:00Z",
        b"#" * (MAX_TEXT_BYTES + 1),
    ],
)
def test_recipes_that_cannot_be_used(
    content: bytes, tmp_path: Path, check_sentence: Callable[[list[str], str], None]
) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    check_sentence(["plan", "bundled:digits", "--epsilon", "nan", "--config", str(tmp_path / "x.toml")], "")


def test_a_setting_without_end(check_sentence: Callable[[list[str], str], None]) -> None:
    check_sentence(
        ["plan", "bundled:digits", "--epsilon", "1", "--set", "steps=" + "[" * 5000], "steps takes"
    )


@pytest.mark.parametrize("content", [b"notes, without a line's end", b'{"a": 1}', b"[" * 10**5, b"\0"])
def test_a_file_that_is_no_ledger_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError):
        Ledger(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line", [b"[" * 10**5, b"null", b"{}", b'{"seconds": "x"}', b'{"seconds": []}', b"\xff"]
)
def test_records_of_steps_that_are_none(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n")
    with pytest.raises(InputError, match="changed or damaged"):
        Metrics(tmp_path)
    with pytest.raises(InputError, match="changed or damaged"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("private", [{}, {"ledger": 3}, {"ledger": None, "digest": [], "run_id": {}}])
def test_a_run_without_an_account(private: dict[str, object], tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "run", {}, private)
    for name in ("ledger", "digest", "run_id"):
        with pytest.raises(InputError, match=f"does not say '{name}'"):
            directory.of_account(name)


# What is shown

ESCAPE = "\x1b]0;owned\x07\x1b[31m"


def test_a_terminal_is_told_nothing_by_a_file_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"a{ESCAPE}\nerror: all is well.png").write_bytes(b"no image")
    assert run(["data", str(tmp_path)]) == 2
    assert run(["data", str(tmp_path / f"{ESCAPE}\udcff")]) == 2
    shown = capsys.readouterr()
    assert not set("\x1b\x07") & set(shown.out + shown.err)
    assert len(shown.err.splitlines()) == 2


def test_a_terminal_is_told_nothing_by_a_pools_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from checks.fuzzing.targets import TARGETS

    ((_, picture),) = TARGETS["pool"].seeds()
    (tmp_path / "0.png").write_bytes(picture)
    (tmp_path / "pool.json").write_text(json.dumps({"note": f"{ESCAPE}\nimages  1000", "[bold]": "[red]"}))
    assert pool_provenance(tmp_path)["[bold]"] == "[red]"
    assert run(["pool", "show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert not set("\x1b\x07") & set(shown)
    assert sum(line.startswith("images") for line in shown.splitlines()) == 1


@given(st.text())
def test_printable_texts_are_texts_without_control(text: str) -> None:
    shown = printable(text, breaks=False)
    assert shown.isprintable() or not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert printable(shown, breaks=False) == shown
    assert len(table({text: text, f"{text}b": text}).split("\n")) == 2


@given(st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()))
def test_what_others_wrote_stays_in_its_place_in_a_card(value: object) -> None:
    shown = in_markdown(value)
    assert "<" not in shown
    assert "\n" not in shown
    assert "](" not in shown
    assert shown.count("|") == shown.count("\\|")


def test_a_card_shows_the_words_of_others_as_words() -> None:
    assert in_markdown("<script>a & b</script>") == "&lt;script>a &amp; b&lt;/script>"
    assert in_markdown("a\n\n# Guarantee\n| ε | 0.1 |") == "a\\n\\n# Guarantee\\n\\| ε \\| 0.1 \\|"
    assert in_markdown("![x](http://e.com)") == "![x]\\(http&#58;//e.com)"
    assert in_markdown("[x]: //e.com") == "[x]\\: //e.com"
    assert in_markdown("www.e.com a@e.com") == "www&#46;e.com a&#64;e.com"
    assert in_markdown(["cat", "dog"]) == "['cat', 'dog']"
    assert in_markdown(0.5) == 0.5
