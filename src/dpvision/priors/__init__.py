"""Prepare what is known before any private image is read: encoders learned from random processes, or
wavelets.

The rooms: processes/ makes images that show nobody, phase_one/ learns from such images (weights/ has the
priors that come with the package), and encoders/ builds frozen encoders by their names. What belongs to no
room lies beside them: feature_classifier.py, a head that learns on an encoder of any kind; text_to_image.py,
images of a public model and of no random process; extras.py, the optional libraries of it and of encoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.networks.scattering import Scattering2d
    from dpvision.priors.encoders import ENCODERS, Encoder, build_encoder, scales_images
    from dpvision.priors.phase_one.contrastive import ContrastiveConfig
    from dpvision.priors.phase_one.places import list_priors
    from dpvision.priors.phase_one.prior_file import Prior, load_prior, save_prior
    from dpvision.priors.processes import PROCESSES, generate, image_batches

__all__ = [
    "ENCODERS",
    "PROCESSES",
    "ContrastiveConfig",
    "Encoder",
    "Prior",
    "Scattering2d",
    "build_encoder",
    "generate",
    "image_batches",
    "list_priors",
    "load_prior",
    "save_prior",
    "scales_images",
]

_HOMES = {
    "ENCODERS": "dpvision.priors.encoders",
    "PROCESSES": "dpvision.priors.processes",
    "ContrastiveConfig": "dpvision.priors.phase_one.contrastive",
    "Encoder": "dpvision.priors.encoders",
    "Prior": "dpvision.priors.phase_one.prior_file",
    "Scattering2d": "dpvision.networks.scattering",
    "build_encoder": "dpvision.priors.encoders",
    "generate": "dpvision.priors.processes",
    "image_batches": "dpvision.priors.processes",
    "list_priors": "dpvision.priors.phase_one.places",
    "load_prior": "dpvision.priors.phase_one.prior_file",
    "save_prior": "dpvision.priors.phase_one.prior_file",
    "scales_images": "dpvision.priors.encoders",
}

if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)
