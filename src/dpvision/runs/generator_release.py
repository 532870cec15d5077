"""A released generator as files: safetensors weights and the configuration that rebuilds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpvision.networks.generators import Generator
from dpvision.networks.weights import load_into, safetensors_bytes
from dpvision.privacy.errors import InputError
from dpvision.runs.files import json_bytes

WEIGHTS = "generator.safetensors"
CONFIG = "config.json"
KIND = "generator"
"""The one entry of the configuration that a classifier's does not have."""


def generator_files(generator: Generator) -> dict[str, bytes]:
    """Return the files from which `load_generator` makes the same generator, by name."""
    return {WEIGHTS: safetensors_bytes(generator.state_dict()), CONFIG: json_bytes({KIND: generator.config})}


def load_generator(path: Path, config: dict[str, Any]) -> Generator:
    """Return the generator in a release directory whose ``config.json`` is given, on the CPU, ready for use.

    Raises:
        InputError: a file is missing, damaged, or does not fit the other.
    """
    generator = load_into(lambda: Generator.from_config(config[KIND]), path / WEIGHTS, str(path / CONFIG))
    proportions = generator.class_proportions
    if not (proportions >= 0).all() or not proportions.any():
        raise InputError(f"{path / WEIGHTS}: the class_proportions are none")
    return generator.eval()
