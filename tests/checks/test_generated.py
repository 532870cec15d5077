"""The modules that are written from others say what those do."""

from __future__ import annotations

from pathlib import Path

import pytest

from checks.generated import modules


@pytest.fixture(scope="module")
def written() -> dict[Path, str]:
    return modules()


def test_they_are_up_to_date(written: dict[Path, str]) -> None:
    for path, text in written.items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run python -m checks.generated"


def test_they_hold_what_they_should(written: dict[Path, str]) -> None:
    text = "".join(written.values())
    assert "class TrainKeywords(RunKeywords, total=False):" in text
    assert "    epsilon: Required[float]\n" in text
    assert '        "learning_rate",\n' in text
