"""The release card of synthetic images: what was released of the private ones, and what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dpvision.networks.image_generator import ImageGenerator
from dpvision.reports.card import strength_of, versions


def synthesis_card(
    guarantee: Mapping[str, Any],
    *,
    made: Mapping[str, Any],
    method: str,
    config: Any,
    generator: ImageGenerator,
    fitting: Mapping[str, Any],
    images: Mapping[str, Any],
    seconds: float,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the card as JSON types.

    Args:
        guarantee: the guarantee of what was released, and so of all that is made of it.
        made: as of :func:`dpvision.reports.card.release_card`.
        method, config: those of the run.
        generator: what was made of it.
        fitting: how images are made to fit it: the choices "resize" and "value_range" of `Choices`.
        images: how many there are, in which formats, and how their classes were chosen.
        seconds: the seconds of the making, which reads no private image.
        more: what the method has to say.
    """
    proportions = generator.class_proportions.tolist()
    return {
        **guarantee,
        "strength": strength_of(guarantee),
        "made": dict(made),
        **{"embedding": None, **more},
        "method": method,
        "generator": {
            "parameters": sum(parameter.numel() for parameter in generator.parameters()),
            **generator.config,
            **fitting,
            **more.get("generator", {}),
            "noisy_class_proportions": dict(zip(generator.class_names, proportions, strict=False)),
        },
        "images": dict(images),
        "config": asdict(config),
        "fitting_seconds": seconds,
        "versions": versions(),
    }
