"""Write cards as text for people. It imports nothing that takes seconds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2

from dpvision.images.files import read_text_file
from dpvision.images.text import written_out
from dpvision.privacy.errors import InputError
from dpvision.reports.chart_words import words_of_chart
from dpvision.reports.settings_rows import settings_rows
from dpvision.reports.shares_found import shares_found


def card_markdown(card: Mapping[str, Any], template: str = "card.md.j2") -> str:
    """Return the card as text for people."""
    with_words = {
        **card,
        "found": partial(_found, card),
        "bound": _bound,
        "share": _share,
        "settings_rows": settings_rows,
    }
    return _environment().get_template(template).render(with_words)


@cache
def _environment() -> jinja2.Environment:
    """Return what the templates are read by; it keeps those that it has compiled."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dpvision", "reports"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=in_markdown,
    )


def _found(card: Mapping[str, Any], releases: str, of: Mapping[str, Any] | None = None) -> str:
    """Write how many members an attacker finds with so many releases, at the rate that a card names."""
    share = shares_found(card["strength"], of)[releases]
    return "an unknown share" if share is None else f"{100 * share:.3g} %"


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

MOST_BYTES = 2**25
"""The largest form of a card, or sheet on one, that is read, in bytes."""


def without_charts(page: str) -> str:
    """Return a card's page with the words of its charts alone: another version of matplotlib draws them
    otherwise.
    """
    return re.sub(r"<svg.*?</svg>", lambda chart: words_of_chart(chart[0]), page, flags=re.DOTALL)


def sheet_of(release: Path) -> bytes | None:
    """Read the sheet of a release's images, if it has one.

    Raises:
        InputError: what is there is no PNG file of the release itself, or is too large.
    """
    path = release / SHEET
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        raise InputError(f"{path} is a link, and no file of the release itself")
    sheet = read_text_file(path, MOST_BYTES)
    if not sheet.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{path} is no PNG file")
    return sheet


def card_template(card: Mapping[str, Any]) -> str:
    """Return the name of the template of a card: of a classifier, or of synthetic images."""
    return "synthesis.md.j2" if "images" in card else "card.md.j2"


_SHOWN = (
    *(("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("](", "]\\("), ("]:", "]\\:")),
    # Renderers make links of what looks like an address.
    *(("://", "&#58;//"), ("www.", "www&#46;"), ("@", "&#64;")),
)
"""What acts in Markdown, and what is written so that it is shown."""


def in_markdown(value: Any) -> Any:
    """Return a value as a card may hold it: classes are named, and provenances written, by others. A text
    stays in its line and its cell, is no HTML and no link, and what would not show is written out.
    """
    if isinstance(value, str | list | tuple | dict):
        text = written_out(str(value))
        for acting, shown in _SHOWN:
            text = text.replace(acting, shown)
        return text
    return value
