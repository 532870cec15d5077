"""Write what is said about a run in public."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.reports.card import guarantee, release_card
    from dpvision.reports.markdown import card_markdown

__all__ = ["card_markdown", "guarantee", "release_card"]

_HOMES = {
    "card_markdown": "dpvision.reports.markdown",
    "guarantee": "dpvision.reports.card",
    "release_card": "dpvision.reports.card",
}

if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)
