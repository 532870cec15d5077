"""What is known before any private image is read: encoders learned from random processes, or wavelets."""

from dpvision.networks.scattering import Scattering2d
from dpvision.priors.contrastive import ContrastiveConfig
from dpvision.priors.encoder import Encoder
from dpvision.priors.encoders import ENCODERS, build_encoder, scales_images
from dpvision.priors.prior_file import Prior, list_priors, load_prior, save_prior
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
