"""What a chart on a page says in words, if it is a chart and nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_ELEMENTS = {"svg", "g", "defs", "clippath", "path", "rect", "text", "use"}
_ATTRIBUTES = {
    *("xmlns", "xmlns:xlink", "version", "viewbox", "role", "aria-label"),
    *("d", "id", "transform", "x", "y", "width", "height"),
}
_LINKS = {"clip-path": r"url\(#\w+\)", "xlink:href": r"#\w+"}
_STYLES = {"fill", "stroke", "opacity", "fill-opacity", "font", "font-size", "font-family", "text-anchor"}
_VALUE = re.compile(r"[^:;()@\\\\]*|var\(--series-[0-9]\)")


def words_of_chart(svg: str) -> str:
    """Return an SVG element with its label and its words alone: what two versions of matplotlib agree on.

    What is more than shapes and words within the element's own frame, such as styles or programs, could
    change all of the page: an element with any of that is returned as it is.
    """
    chart = _Chart()
    chart.feed(svg)
    chart.close()
    return f'<svg aria-label="{chart.label}">{" ".join(chart.words)}</svg>' if chart.is_plain else svg


class _Chart(HTMLParser):
    """Reads an SVG element.

    Attributes:
        is_plain: whether nothing was found but shapes and words.
        label: its label.
        words: those within it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_plain, self.label = True, ""
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at an element and its attributes."""
        self.is_plain &= tag in _ELEMENTS and all(_is_plain(name, value or "") for name, value in attrs)
        if tag == "svg":
            self.label = dict(attrs).get("aria-label") or ""

    def handle_data(self, data: str) -> None:
        """Take words."""
        self.words += data.split()

    def handle_comment(self, data: str) -> None:
        """Take a comment for something else than a chart, as all below."""
        self.is_plain = False

    def handle_decl(self, decl: str) -> None:
        """See `handle_comment`."""
        self.is_plain = False

    def handle_pi(self, data: str) -> None:
        """See `handle_comment`."""
        self.is_plain = False

    def unknown_decl(self, data: str) -> None:
        """See `handle_comment`."""
        self.is_plain = False


def _is_plain(name: str, value: str) -> bool:
    if name in _LINKS:
        return bool(re.fullmatch(_LINKS[name], value))
    if name != "style":
        return name in _ATTRIBUTES
    for declaration in filter(None, map(str.strip, value.split(";"))):
        what, colon, found = declaration.partition(":")
        known = what in _STYLES or what.startswith("stroke-")
        if not (colon and known and _VALUE.fullmatch(found.strip())):
            return False
    return True
