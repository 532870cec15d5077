"""Write what is said about a run in public."""

from dpvision.reports.card import card_markdown, guarantee, release_card

__all__ = ["card_markdown", "guarantee", "release_card"]
