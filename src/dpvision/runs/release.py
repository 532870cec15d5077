"""A released model as files: safetensors weights and the configuration that rebuilds the network."""

from __future__ import annotations

import os
from pathlib import Path

from dpvision.networks import Classifier
from dpvision.networks.image_generator import ImageGenerator
from dpvision.networks.weights import load_into, safetensors_bytes
from dpvision.priors.feature_classifier import rebuild_classifier
from dpvision.privacy.errors import InputError
from dpvision.runs.files import json_bytes, read_json
from dpvision.runs.generator_release import CONFIG, load_generator
from dpvision.runs.generator_release import KIND as GENERATOR
from dpvision.runs.places import check_release

WEIGHTS = "model.safetensors"


def classifier_files(model: Classifier) -> dict[str, bytes]:
    """Return the files from which `load_release` makes the same classifier, by name."""
    if model.config is None:
        raise InputError("only a network that dpvision built can be released by name; save its state_dict")
    return {WEIGHTS: safetensors_bytes(model.state_dict()), CONFIG: json_bytes(model.config)}


def load_release(path: str | os.PathLike[str]) -> Classifier | ImageGenerator:
    """Return the classifier or generator in a release directory, on the CPU and in evaluation mode, ready for
    use.

    Nothing is unpickled, and no code of the release is run.

    Raises:
        InputError: a file is missing, damaged, or does not fit the other.
    """
    path = Path(path)
    check_release(path)
    config = read_json(path / CONFIG)
    if GENERATOR in config:
        return load_generator(path, config)
    weights_path = path / WEIGHTS
    if not weights_path.is_file():
        raise InputError(f"{weights_path} is missing; give the release directory of a run that is complete")
    return load_into(lambda: rebuild_classifier(config), weights_path, str(path / CONFIG)).eval()
