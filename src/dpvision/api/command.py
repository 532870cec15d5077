"""The command that makes a run like one that was made, of what may be published."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from dpvision.api.config import RunConfig
from dpvision.methods.registry import TUNED


def command_of(config: RunConfig) -> str:
    """Return the command. DATA, RUN and RELEASE stand for places, which are nobody's business.

    Settings that were left to their defaults are left out, also such as a search chose.
    """
    return shlex.join(["dpvision", *_verb(config), *_settings(config)])


def _verb(config: RunConfig) -> Iterator[str]:
    name = config.method.name
    makes_images = config.images is not None
    yield "synthesize" if makes_images else "tune" if name.startswith(TUNED) else "train"
    yield from ["--from-release", "RELEASE"] if config.data is None and makes_images else ["DATA"]
    if config.budget is not None:
        yield from ["--epsilon", f"{config.budget.epsilon:g}", "--delta", f"{config.budget.delta:g}"]
        yield from ["--relation", config.budget.neighboring_relation]
        yield from ["--method", name.removeprefix(TUNED)]
    if config.data is not None and (size := config.data.size) is not None:
        yield from ["--size", str(size)]
    if config.seed is not None:
        yield from ["--seed", str(config.seed)]
    if config.images is not None:
        yield from ["--count", str(config.images.count)]
        for form in config.images.formats:
            yield from ["--format", form]
        if config.images.balanced:
            yield "--balanced"
        for class_name, count in (config.images.class_counts or {}).items():
            yield from ["--class-count", f"{class_name}={count}"]
    yield from ["--out", "RUN"]


def _settings(config: RunConfig) -> Iterator[str]:
    settings = asdict(config.settings)
    given = [one for name in config.given if name in settings for one in _flat(name, settings[name])]
    if given:
        yield from ["--set", *given]


def _flat(name: str, value: Any) -> Iterator[str]:
    """Yield KEY=VALUE of a setting, with a dot for each level of a mapping."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield f"{name}={value if isinstance(value, str) else json.dumps(value)}"
