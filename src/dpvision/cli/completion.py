"""What a shell offers when a word is half written: nothing heavy is imported, so it answers at once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import typer

from dpvision.images.places import BUNDLED
from dpvision.methods.registry import AUTO, find_method, known_methods
from dpvision.methods.setting_names import SETTING_NAMES
from dpvision.privacy.budget import NeighboringRelation


def method(incomplete: str) -> list[str]:
    """Offer the methods."""
    return _begun([AUTO, *known_methods()], incomplete)


def known_method(incomplete: str) -> list[str]:
    """Offer those that have settings, which is all but the one that chooses."""
    return _begun(list(known_methods()), incomplete)


def data(incomplete: str) -> list[str]:
    """Offer the bundled data sets, and the files and folders that there are."""
    return [*_begun(BUNDLED, incomplete), *_paths(incomplete)]


def setting(context: typer.Context, incomplete: str) -> list[str]:
    """Offer KEY= for the settings of the method that was named, or of all methods."""
    named = context.params.get("method")
    methods = [named] if named in known_methods() else list(SETTING_NAMES)
    names = dict.fromkeys(name for one in methods for name in _settings_of(one))
    return _begun([f"{name}=" for name in names], incomplete)


def _settings_of(method: str) -> tuple[str, ...]:
    """Return the names of a method's settings. One that another package has registered is imported for it."""
    if method in SETTING_NAMES:
        return SETTING_NAMES[method]
    config: Any = find_method(method).config_class
    return tuple(one.name for one in dataclasses.fields(config))


def _paths(incomplete: str) -> Iterator[str]:
    folder, name = os.path.split(incomplete)
    try:
        there = sorted(os.listdir(os.path.expanduser(folder) or "."))
    except (OSError, ValueError):
        return
    for one in there:
        if one.startswith(name) and (name or not one.startswith(".")) and one.isprintable():
            path = os.path.join(folder, one)
            yield path + ("/" if os.path.isdir(os.path.expanduser(path)) else "")


def _begun(words: Sequence[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _one_of(words: Sequence[str]) -> Callable[[str], list[str]]:
    def offered(incomplete: str) -> list[str]:
        return _begun(words, incomplete)

    return offered


OF_OPTIONS: dict[str, Callable[[str], list[str]]] = {
    "method": method,
    "neighboring_relation": _one_of(get_args(NeighboringRelation)),
    "test": data,
}
"""What is offered for the options of these names."""
