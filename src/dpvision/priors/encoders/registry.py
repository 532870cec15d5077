"""List the encoders, and who builds which. A new kind is a file of this folder, and its line here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dpvision.networks.options import check_options
from dpvision.priors.encoders.concatenated import ConcatenatedEncoder
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape
from dpvision.priors.encoders.file_network import ARCHITECTURES, build_file_network
from dpvision.priors.encoders.fitted import fit_once
from dpvision.priors.encoders.inception import NAME as INCEPTION
from dpvision.priors.encoders.inception import build_inception
from dpvision.priors.encoders.open_clip import build_open_clip
from dpvision.priors.encoders.patches import build_patches
from dpvision.priors.encoders.pixels import build_pixels
from dpvision.priors.encoders.scattering import build_scattering
from dpvision.priors.encoders.timm import build_timm
from dpvision.priors.encoders.torchvision import build_torchvision
from dpvision.priors.encoders.whitened import WhitenedEncoder
from dpvision.priors.encoders.wide_resnet import build_prior, build_random_wide_resnet
from dpvision.priors.phase_one.places import list_priors
from dpvision.privacy.errors import InputError
from dpvision.privacy.values import fits, in_words


@dataclass(frozen=True)
class Kind:
    """A kind of encoder.

    Attributes:
        name: what users call it; words in capitals stand for what they choose.
        build: makes one from its name, image shape and provenance, and from options by keyword.
        pattern: the names that are of this kind, as a regular expression; by default ``name`` alone.
        scales_images: it is for photographs, and scales them itself.
        needs_numbers: it looks at numbers while it is built, also where the caller wants no more than shapes.
    """

    name: str
    build: Callable[..., Encoder]
    pattern: str = ""
    scales_images: bool = False
    needs_numbers: bool = False

    def includes(self, name: str) -> bool:
        """Say whether an encoder of that name is of this kind."""
        return re.fullmatch(self.pattern or re.escape(self.name), name) is not None


def _of_library(library: str, build: Callable[..., Encoder]) -> Kind:
    return Kind(f"{library}:NAME", build, f"{library}:.+", scales_images=True, needs_numbers=True)


KINDS = (
    Kind("patches", build_patches),
    Kind("scattering", build_scattering),
    Kind("random-wrn-D-K", build_random_wide_resnet, r"random-wrn-\d+-\d+"),
    Kind("pixels", build_pixels),
    *(Kind(name, build_file_network, scales_images=True) for name in ARCHITECTURES),
    _of_library("torchvision", build_torchvision),
    _of_library("timm", build_timm),
    _of_library("open_clip", build_open_clip),
    Kind(INCEPTION, build_inception, scales_images=True, needs_numbers=True),
)
"""All kinds of encoder but priors, which are known by their files, and sums "A+B" of encoders."""

ENCODERS = tuple(kind.name for kind in KINDS)
"""The names that :func:`build_encoder` knows beside those of priors; D and K are a depth and a width."""

OF_CODE = (build_patches, build_scattering, build_pixels)
"""What builds encoders that need no file, and are not of any size that a name says."""

FETCHING = ("timm:hf", "timm:local")
"""Beginnings of the names for which a library reads more than its own list of networks."""

MOST_PARTS = 16  # of a sum

WHITEN = "whiten"
"""The option of encoders of any kind."""


def scales_images(name: str) -> bool:
    """Say whether an encoder, or one of several joined by +, is for photographs, which it scales itself."""
    scaling = {kind.name.partition(":")[0] for kind in KINDS if kind.scales_images}
    return any(part.partition(":")[0] in scaling for part in name.split("+"))


def is_of_package(name: str) -> bool:
    """Say whether an encoder, or each of several joined by +, is one of those that come with the package:
    whoever has its name has it.
    """
    of_code = [kind for kind in KINDS if kind.build in OF_CODE]
    priors = list_priors()
    return all(part in priors or any(kind.includes(part) for kind in of_code) for part in name.split("+"))


def build_encoder(
    name: str,
    image_shape: Sequence[int],
    *,
    provenance: Provenance | None = None,
    fit: bool = True,
    **options: Any,
) -> Encoder:
    """Build the encoder of that name for images of that shape, on the CPU. Its parameters are frozen.

    >>> encoder = build_encoder("scattering", (1, 28, 28), J=2, cells=7)
    >>> encoder.out_features  # 81 paths on a grid of 7 by 7
    3969

    Names and their options:

    - a bundled prior or the path of a prior's file: ``taps`` and ``cells`` of :class:`WideResNetEncoder`;
    - "random-wrn-D-K", to compare with: the same network untrained; also its ``network_options`` and the
      ``seed`` of its weights, by default 0;
    - "patches": ``centroids``, ``size``, ``cells``, ``threshold`` and ``seed`` of :class:`PatchEncoder`;
    - "scattering": ``J``, ``L``, ``cells`` and ``groups`` of :class:`ScatteringEncoder`;
    - "pixels": ``size`` and ``products`` of :class:`PixelEncoder`;
    - "vgg19", "squeezenet1_0", "resnet18" and "resnet18-small": ``weights``, ``layers``, ``size``,
      ``cells``, ``mean`` and ``std`` of :func:`build_file_network`. The weights are a file of the user's;
    - "torchvision:NAME" and "timm:NAME": ``size``, the side in pixels to which images are scaled (by default
      that of the images it was trained on), ``layers`` and ``cells`` of :class:`NetworkEncoder`. The
      libraries fetch the weights;
    - "open_clip:NAME", the visual tower, up to what it shares with the text tower: also ``pretrained``,
      open_clip's tag of the weights, by default "openai", or the first one listed where there is no such;
    - "inception", for the FID: ``weights``, the path of torch-fidelity's file;
    - "A+B", the features of both: ``parts``, a list of one dictionary of options for each, and
      ``part_weights`` of :class:`ConcatenatedEncoder`;
    - of any, also of each part of a sum: ``whiten`` of :class:`WhitenedEncoder`, by default none.

    Args:
        name: as above.
        image_shape: (C, H, W), with C = 1 or 3. Networks see grey images as RGB.
        provenance: the provenance of weights that the caller is going to load with ``load_state_dict``. No
            others are then read or fetched, and name need not exist any more.
        fit: whether to fit it to images of random processes, if it needs that and the caller does not load
            weights: without, it can show no more than shapes and times.
        options: as above.

    Raises:
        InputError: an unknown name or option, an option of another type, images too small, a prior that
            cannot be loaded, or a library that is not installed, lacks the network or cannot fetch it.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise InputError(f"encoders take grey or RGB images, of 1 or 3 channels, not {channels}")
    shape = (channels, height, width)
    encoder = _build(name, shape, provenance, options).requires_grad_(False).eval()
    if fit and provenance is None:
        fit_once(encoder)
    return encoder


def rebuild_encoder(config: Mapping[str, Any]) -> Encoder:
    """Build the encoder of a config that somebody may have changed, up to its weights, which are not read.

    Raises:
        InputError: as :func:`build_encoder`; it leaves something to be read or fetched.
        KeyError, TypeError, …: it is the config of no encoder.
    """
    names, provenance = str(config["name"]).split("+"), config["provenance"]
    for name, part in zip(names, provenance["parts"] if len(names) > 1 else [provenance], strict=True):
        # By default these would be read from a file, or from the network.
        if not isinstance(part, dict) or not part or name.startswith(FETCHING):
            raise InputError(f"encoder {name} does not say where its weights came from; they are not fetched")
    return build_encoder(**config)


def _build(
    name: str, image_shape: Shape, provenance: Provenance | None, options: Mapping[str, Any]
) -> Encoder:
    kind = _kind_of(name, provenance)
    of_kind = {option: value for option, value in options.items() if option != WHITEN}
    check_options(f"encoder {name}", kind.build, of_kind, ("name", "image_shape", "provenance"))
    whiten = options.get(WHITEN)
    if not fits(whiten, float | None):
        raise InputError(f"encoder {name}: {WHITEN} must be {in_words(float | None)}, not {whiten!r}")
    with torch.device("cpu") if kind.needs_numbers else nullcontext():
        encoder = kind.build(name, image_shape, provenance, **of_kind)
    return encoder if whiten is None else WhitenedEncoder(encoder, whiten)


def _kind_of(name: str, provenance: Provenance | None) -> Kind:
    """Find it, or raise InputError. What has a provenance and any other name once was a prior's file."""
    if "+" in name and not Path(name).is_file():
        return Kind("A+B", _build_sum)
    for kind in KINDS:
        if kind.includes(name):
            return kind
    if provenance or name in list_priors() or name.endswith(".safetensors") or Path(name).is_file():
        return Kind("PRIOR", build_prior)
    raise InputError(
        f"there is no encoder '{name}'; give the path of a prior's file, one of "
        f"{', '.join((*list_priors(), *ENCODERS))}, or several of them joined by +"
    )


def _build_sum(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    parts: Sequence[Mapping[str, Any]] | None = None,
    part_weights: Sequence[float] | None = None,
) -> Encoder:
    names = name.split("+")
    if len(names) > MOST_PARTS:
        raise InputError(f"an encoder has at most {MOST_PARTS} parts, not {len(names)}")
    parts = [{}] * len(names) if parts is None else parts
    if len(parts) != len(names):
        raise InputError(f"encoder {name}: parts must be {len(names)} tables of options, not {len(parts)}")
    provenances = [None] * len(names) if provenance is None else provenance["parts"]
    columns = zip(names, provenances, parts, strict=True)
    return ConcatenatedEncoder([_build(n, image_shape, p, o) for n, p, o in columns], part_weights)
