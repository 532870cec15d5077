"""Write cards as text for people. It imports nothing that takes seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jinja2

from dpvision.images.text import written_out
from dpvision.reports.settings_rows import settings_rows


def card_markdown(card: Mapping[str, Any], template: str = "card.md.j2") -> str:
    """Return the card as text for people."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dpvision", "reports"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=in_markdown,
    )
    return environment.get_template(template).render(
        {
            **card,
            "found": partial(_found, card),
            "bound": _bound,
            "share": _share,
            "settings_rows": settings_rows,
        }
    )


def _found(card: Mapping[str, Any], releases: str) -> str:
    """Write how many members an attacker finds with so many releases, at the rate that a card names."""
    strength = card["strength"]
    rates = strength["true_positive_rates"][releases]
    at = strength["false_positive_rates"].index(strength["at"])
    return "an unknown share" if rates is None else f"{100 * rates[at]:.3g} %"


def _share(figure: Mapping[str, Any]) -> str:
    """Write a figure with its interval, if it has one."""
    if figure["value"] is None:
        return "not defined"
    interval = figure["interval_95"]
    return f"{figure['value']:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else "")


def _bound(value: float | None) -> str:
    return "no useful bound" if value is None else f"{value:.4g}"


SHEET = "samples.png"
"""The file of a release with the first of its synthetic images."""


def without_charts(page: str) -> str:
    """Return a card's page with the words of its charts alone: another version of matplotlib draws them
    otherwise.
    """
    return re.sub(r"<svg.*?</svg>", _words, page, flags=re.DOTALL)


def _words(chart: re.Match[str]) -> str:
    """Return the label of a chart, and all of its text."""
    label = re.search(r'aria-label="[^"]*"', chart[0])
    said = re.sub(r"<style.*?</style>|<[^>]*>", " ", chart[0], flags=re.DOTALL).split()
    return f"<svg {label[0] if label else ''}>{' '.join(said)}</svg>"


def card_template(card: Mapping[str, Any]) -> str:
    """Return the name of the template of a card: of a classifier, or of synthetic images."""
    return "synthesis.md.j2" if "images" in card else "card.md.j2"


def in_markdown(value: Any) -> Any:
    """Return a value as a card may hold it: classes are named, and provenances written, by others. A text
    stays in its line and its cell, is no HTML and no link, and what would not show is written out.
    """
    if isinstance(value, str | list | tuple | dict):
        text = written_out(str(value))
        for character, replacement in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("](", "]\\(")):
            text = text.replace(character, replacement)
        return text
    return value
