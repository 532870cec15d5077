"""Prepare what is known before any private image is read: encoders learned from random processes, or
wavelets.

The rooms: processes/ makes images that show nobody, phase_one/ learns from such images (weights/ has the
priors that come with the package), and encoders/ builds frozen encoders by their names. What belongs to no
room lies beside them: feature_classifier.py, a head that learns on an encoder of any kind; text_to_image.py,
images of a public model and of no random process; extras.py, the optional libraries of it and of encoders.
"""

from dpvision.networks.scattering import Scattering2d
from dpvision.priors.encoders import ENCODERS, Encoder, build_encoder, scales_images
from dpvision.priors.phase_one.contrastive import ContrastiveConfig
from dpvision.priors.phase_one.prior_file import Prior, list_priors, load_prior, save_prior
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
