"""An encoder beside what was released of its features: more can be made of these without its own source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from dpvision.priors.encoder import Encoder
from dpvision.priors.encoders import build_encoder
from dpvision.privacy.errors import InputError

ENCODER = "encoder.safetensors"


def load_encoder(config: dict[str, Any], path: Path) -> Encoder:
    """The encoder of that config with the weights in a file of its state_dict, on the CPU.

    Raises:
        InputError: the file is missing, damaged or of another encoder.
    """
    encoder = build_encoder(**config)
    try:
        encoder.load_state_dict(safetensors.torch.load(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} does not hold the weights of encoder {config['name']} ({reason})"
        ) from error
    return encoder
