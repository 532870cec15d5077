"""The release card of synthetic images: what was released of the private ones, and what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpvision.methods.embedding import Embedding
from dpvision.networks.generators import Generator
from dpvision.reports.card import card_markdown, versions


def synthesis_card(
    *,
    embedding: Embedding,
    generator: Generator,
    settings: Mapping[str, Any],
    images: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """The card as JSON types.

    Args:
        embedding: what was released. Its guarantee is that of all that is made of it.
        generator: what was fitted to it.
        settings: of the run, as JSON types.
        images: how many there are, in which formats, and how their classes were chosen.
        seconds: of the fit, which reads no private image.
    """
    mechanism = embedding.mechanism
    proportions = generator.class_proportions.tolist()
    return {
        **embedding.facts["guarantee"],
        "embedding": {
            "features": mechanism.num_features,
            "numbers": sum(total.numel() for total in embedding.sums.values()),
            "second_moment_weight": mechanism.second_moment_weight,
            "count_weight": mechanism.count_weight,
            "noise_standard_deviation": embedding.facts["noise"],
            "encoder": embedding.facts["encoder"],
        },
        "generator": {
            "parameters": sum(parameter.numel() for parameter in generator.parameters()),
            **generator.config,
            "objective": settings["objective"],
            "steps": settings["steps"],
            "noisy_class_proportions": dict(zip(generator.class_names, proportions, strict=False)),
        },
        "images": dict(images),
        "config": dict(settings),
        "fitting_seconds": seconds,
        "versions": versions(),
    }


def synthesis_markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    return card_markdown(card, "synthesis.md.j2")
