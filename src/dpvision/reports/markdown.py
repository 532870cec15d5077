"""Write cards as text for people. It imports nothing that takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from dpvision.images.text import written_out


def card_markdown(card: Mapping[str, Any], template: str = "card.md.j2") -> str:
    """Return the card as text for people."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dpvision", "reports"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=in_markdown,
    )
    return environment.get_template(template).render(card)


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
