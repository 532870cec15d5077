"""An encoder beside what was released of its features: more can be made of these without its own source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dpvision.networks.weights import load_into
from dpvision.priors.encoders.encoder import Encoder
from dpvision.priors.encoders.registry import rebuild_encoder
from dpvision.privacy.errors import InputError

ENCODER = "encoder.safetensors"


def load_encoder(
    config: dict[str, Any], path: Path, image_shape: Sequence[int], out_features: int
) -> Encoder:
    """Return the encoder of that config with the weights in a file of its state_dict, on the CPU.

    Args:
        config: the configuration of the encoder.
        path: the path of the file.
        image_shape: (C, H, W) of the images that were encoded.
        out_features: D, how many features there were of each.

    Raises:
        InputError: the file is missing, damaged or of another encoder; config is of no encoder, or of one
            that gives other features.
    """

    def build() -> Encoder:
        encoder = rebuild_encoder(config)
        if list(encoder.config["image_shape"]) != list(image_shape) or encoder.out_features != out_features:
            raise InputError(f"it is of an encoder that does not give {out_features} features")
        return encoder

    return load_into(build, path, f"what was released beside {path}")


def restored_encoder(config: dict[str, Any], weights: Mapping[str, Tensor]) -> Encoder:
    """Return the encoder of that config with these weights, on the CPU.

    Raises:
        InputError: config is of no encoder.
        RuntimeError: the weights are of another one.
    """
    encoder = rebuild_encoder(config)
    encoder.load_state_dict(dict(weights))
    return encoder
