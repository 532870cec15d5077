"""The sample card of the documentation is what its facts are drawn as today."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from dpvision.reports.html import card_html
from dpvision.reports.markdown import card_markdown, card_template, without_charts

FOLDER = Path(__file__).parents[1] / "docs" / "sample-card"


def test_it_is_drawn_as_today() -> None:
    """`python -m checks.sample_card --draw` draws it again."""
    card = json.loads((FOLDER / "card.json").read_text())
    if card["versions"]["dpvision"] != version("dpvision"):
        pytest.fail("it is of another version: python -m checks.sample_card makes a new one")
    assert (FOLDER / "card.md").read_text() == card_markdown(card, card_template(card))
    assert without_charts((FOLDER / "card.html").read_text()) == without_charts(card_html(card))
    assert {"test", "audit", "membership"} == card["beside"].keys()
