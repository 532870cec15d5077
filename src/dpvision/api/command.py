"""The command that makes a run like one that was made, of what may be published."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

from dpvision.api.config import RunConfig
from dpvision.images.choices import Choices
from dpvision.methods.continued import FROM_RUN, REFINE
from dpvision.methods.places import without_places
from dpvision.methods.registry import TUNED, plain_name
from dpvision.reports.settings_rows import flat

_TAKEN_UP = {REFINE: "--refine", FROM_RUN: "--from"}
"""Settings that name an earlier run, and the options that give them."""


def command_of(config: RunConfig) -> str:
    """Return the command. DATA, RUN, RELEASE, POOL and ENCODER stand for places, which are nobody's business,
    and so do columns of a table for themselves.

    Settings that were left to their defaults are left out, also such as a search chose.
    """
    return shlex.join(["dpvision", *_verb(config), *_of_images(config), *_settings(config)])


def _verb(config: RunConfig) -> Iterator[str]:
    name = config.method.name
    makes_images = config.images is not None
    yield "synthesize" if makes_images else "tune" if name.startswith(TUNED) else "train"
    yield from ["--from-release", "RELEASE"] if config.data is None and makes_images else ["DATA"]
    if config.budget is not None:
        yield from ["--epsilon", f"{config.budget.epsilon:g}", "--delta", f"{config.budget.delta:g}"]
        yield from ["--relation", config.budget.neighboring_relation]
        yield from ["--num-examples", str(config.facts.num_examples)]
        yield from ["--method", plain_name(name)]
    if name.startswith(TUNED):
        for setting, values in without_places(config.settings.search).items():
            yield from ["--search", f"{setting}={','.join(map(_plainly, values))}"]
        yield from ["--trials", f"{config.settings.trials:g}"]
    for setting, flag in _TAKEN_UP.items():
        if setting in config.given:
            yield from [flag, "RELEASE"]
    if config.data is not None:
        yield from _reading(config.data)
    if config.seed is not None:
        yield from ["--seed", str(config.seed)]
    yield from ["--out", "RUN"]


def _reading(choices: Choices) -> Iterator[str]:
    """Yield how images were read, where that was not left open."""
    for one in fields(Choices):
        value, flag = getattr(choices, one.name), f"--{one.name.replace('_', '-')}"
        if value == one.default:
            continue
        if value is True:
            yield flag
        elif one.name.endswith("_column"):
            yield from [flag, "COLUMN"]
        elif isinstance(value, int | str):
            yield from [flag, str(value)]
        elif one.name == "value_range":
            yield from [flag, ":".join(map(str, value))]
        elif isinstance(value, Mapping):
            yield from [flag, ",".join(f"{label}={name}" for label, name in value.items())]
        else:
            yield from [flag, ",".join(map(str, value))]


def _of_images(config: RunConfig) -> Iterator[str]:
    """Yield what is to be published of images."""
    if config.images is None:
        return
    yield from ["--count", str(config.images.count)]
    for form in config.images.formats:
        yield from ["--format", form]
    if config.images.balanced:
        yield "--balanced"
    for class_name, count in (config.images.class_counts or {}).items():
        yield from ["--class-count", f"{class_name}={count}"]


def _settings(config: RunConfig) -> Iterator[str]:
    settings = asdict(config.settings)
    given = {name: settings[name] for name in config.given if name in settings and name not in _TAKEN_UP}
    for name, value in flat("", without_places(given)):
        yield from ["--set", f"{name}={_plainly(value)}"]


def _plainly(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
