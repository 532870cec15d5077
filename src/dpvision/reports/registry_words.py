"""Words that the texts of an entry of the registry share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dpvision.reports.guarantee_file import unit_of
from dpvision.reports.registry_facts import RegistryFacts


def bullets(lines: Iterable[str]) -> str:
    """Return a list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def paragraphs(*parts: str | None) -> str:
    """Return paragraphs in Markdown; those that are None or empty are left out."""
    return "\n\n".join(part for part in parts if part)


def number(value: float) -> str:
    """Return a number with four digits."""
    return f"{value:.4g}"


def released(card: Mapping[str, Any]) -> str:
    """Say what was released, as a sentence begins."""
    if "images" in card:
        return f"{card['images']['count']} synthetic images"
    return f"Classifier of images in {len(card['model']['class_names'])} classes"


def shape(made_of: Mapping[str, Any]) -> str:
    """Return the shape of images."""
    return f"{'×'.join(str(size) for size in made_of['image_shape'])} (channels, height, width)"


def unit_name(card: Mapping[str, Any], facts: RegistryFacts) -> str:
    """Return what is protected, in a word."""
    return "image" if unit_of(card) == "image" else str(facts.unit_is)
