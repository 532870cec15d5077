"""Encoders, which map images to features: frozen, and learned without private data or not learned at all.

Each kind has a file; encoder.py says what all of them are, and registry.py which name belongs to which.
"""

from dpvision.priors.encoders.concatenated import ConcatenatedEncoder
from dpvision.priors.encoders.encoder import Encoder
from dpvision.priors.encoders.fitted import fit_once
from dpvision.priors.encoders.registry import (
    ENCODERS,
    build_encoder,
    is_of_package,
    rebuild_encoder,
    scales_images,
)

__all__ = [
    "ENCODERS",
    "ConcatenatedEncoder",
    "Encoder",
    "build_encoder",
    "fit_once",
    "is_of_package",
    "rebuild_encoder",
    "scales_images",
]
