"""Say what is installed: this package, what it is built on, and the libraries of each extra."""

from __future__ import annotations

import importlib
import platform
import re
import warnings
from dataclasses import dataclass
from importlib import metadata

FOR_DEVELOPERS = frozenset({"test", "dev", "fuzz", "docs"})
"""The extras that no user of the package needs."""

BASES = ("torch", "numpy", "scipy", "dp-accounting", "cryptography")
"""The libraries of which a report of a fault should say the version."""


@dataclass(frozen=True)
class Library:
    """A library of an extra.

    Attributes:
        name: that of its distribution.
        version: None where it is not installed.
        error: why it cannot be imported though it is installed; None where it can be.
    """

    name: str
    version: str | None
    error: str | None = None


def versions() -> dict[str, str]:
    """Return the version of Python, of this package and of what it is built on, by name."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("dpvision", *BASES)},
    }


def extras() -> dict[str, list[str]]:
    """Return the names of the libraries of each extra, without the extras for developers."""
    found: dict[str, list[str]] = {}
    for requirement in metadata.requires("dpvision") or ():
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*["'](.+?)["']""", requirement)
        if name and extra and extra[1] not in FOR_DEVELOPERS:
            found.setdefault(extra[1], []).append(name[0])
    return found


def libraries() -> dict[str, list[Library]]:
    """Return the libraries of each extra, each of which that is installed is imported: it takes seconds."""
    modules = {
        _normal(name): module for module, names in metadata.packages_distributions().items() for name in names
    }
    return {
        extra: [_library(name, modules.get(_normal(name))) for name in names]
        for extra, names in extras().items()
    }


def _library(name: str, module: str | None) -> Library:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Library(name, None)
    try:
        with warnings.catch_warnings(action="ignore"):
            importlib.import_module(module or name)
    except Exception as error:  # whatever a library that was built for another torch raises
        return Library(name, version, " ".join(str(error).split()) or type(error).__name__)
    return Library(name, version)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
