"""A released generator as files: safetensors weights and the configuration that rebuilds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.diffusion import DiffusionGenerator
from dpvision.networks.generators import Generator
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.weights import load_into, safetensors_bytes
from dpvision.priors.taught_images import TaughtImages
from dpvision.privacy.errors import InputError
from dpvision.runs.files import json_bytes

WEIGHTS = "generator.safetensors"
CONFIG = "config.json"
KIND = "generator"
"""The one entry of the configuration that a classifier's does not have."""
CLASSES: dict[str, type[ImageGenerator]] = {
    each.kind: each for each in (Generator, ClampedNormal, DiffusionGenerator, TaughtImages)
}


def generator_files(generator: ImageGenerator) -> dict[str, bytes]:
    """Return the files from which `load_generator` makes the same generator, by name."""
    config = {"kind": generator.kind, **generator.config}
    return {WEIGHTS: safetensors_bytes(generator.state_dict()), CONFIG: json_bytes({KIND: config})}


def load_generator(path: Path, config: dict[str, Any]) -> ImageGenerator:
    """Return the generator in a release directory whose ``config.json`` is given, on the CPU, ready for use.

    Raises:
        InputError: a file is missing, damaged, or does not fit the other.
    """

    def build() -> ImageGenerator:
        settings = dict(config[KIND])
        kind = settings.pop("kind", Generator.kind)  # which earlier versions did not write
        return CLASSES[kind].from_config(settings)

    generator = load_into(build, path / WEIGHTS, str(path / CONFIG))
    proportions = generator.class_proportions
    if not (proportions >= 0).all() or not proportions.any():
        raise InputError(f"{path / WEIGHTS}: the class_proportions are none")
    return generator.eval()
