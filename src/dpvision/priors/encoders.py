"""Encoders: from images to features, frozen, learned without private data or not learned at all."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks import WideResNet, build_network
from dpvision.networks.gaussian_images import GaussianImages
from dpvision.networks.options import check_options
from dpvision.networks.scattering import Scattering2d
from dpvision.priors.encoder import Encoder, Provenance, Shape, as_rgb
from dpvision.priors.file_encoders import ARCHITECTURES, file_encoder
from dpvision.priors.inception import NAME as INCEPTION
from dpvision.priors.inception import build_inception
from dpvision.priors.library_encoders import LIBRARIES
from dpvision.priors.pixels import pixels
from dpvision.priors.prior_file import list_priors, load_prior
from dpvision.privacy.errors import InputError

ENCODERS = (
    "scattering",
    "random-wrn-D-K",
    "pixels",
    *ARCHITECTURES,
    "torchvision:NAME",
    "timm:NAME",
    "open_clip:NAME",
    INCEPTION,
)
"""The names that :func:`build_encoder` knows beside those of priors; D and K are a depth and a width."""


FETCHING = ("timm:hf", "timm:local")
"""What the names begin with for which a library reads more than its own list of networks."""

MOST_PARTS = 16  # of a sum

Cells = int | Sequence[int] | Literal["all"]
"""Sides of the grids over which a :class:`WideResNetEncoder` averages."""


def scales_images(name: str) -> bool:
    """Whether an encoder, or one of several joined by +, is for photographs, which it can scale itself."""
    return any(part.partition(":")[0] in (*LIBRARIES, *ARCHITECTURES, INCEPTION) for part in name.split("+"))


def build_encoder(
    name: str, image_shape: Sequence[int], *, provenance: Provenance | None = None, **options: Any
) -> Encoder:
    """The encoder of that name for images of that shape, on the CPU; its parameters ask for no gradient.

    Names and their options:

    - a bundled prior or the path of a prior's file: ``taps`` and ``cells`` of :class:`WideResNetEncoder`;
    - "random-wrn-D-K", to compare with: the same network untrained; also its ``network_options`` and the
      ``seed`` of its weights, by default 0;
    - "scattering": ``J``, ``L``, ``cells`` and ``groups`` of :class:`ScatteringEncoder`;
    - "pixels": ``size`` and ``products`` of :class:`PixelEncoder`;
    - "vgg19", "squeezenet1_0" and "resnet18": ``weights``, ``layers``, ``size``, ``cells``, ``mean`` and
      ``std`` of :func:`dpvision.priors.file_encoders.file_encoder`. The weights are a file of the user's;
    - "torchvision:NAME" and "timm:NAME": ``size``, the side in pixels to which images are scaled (by default
      that of the images it was trained on), ``layers`` and ``cells`` of :class:`NetworkEncoder`. The
      libraries fetch the weights;
    - "open_clip:NAME", the visual tower, up to what it shares with the text tower: also ``pretrained``,
      open_clip's tag of the weights, by default "openai", or the first one listed where there is no such;
    - "inception", for the FID: ``weights``, the path of torch-fidelity's file;
    - "A+B", the features of both: ``parts``, a list of one dictionary of options for each, and
      ``part_weights`` of :class:`ConcatenatedEncoder`.

    Args:
        name: as above.
        image_shape: (C, H, W), with C = 1 or 3. Networks see grey images as RGB.
        provenance: of weights that the caller is going to load with ``load_state_dict``. No others are then
            read or fetched, and name need not exist any more.
        options: as above.

    Raises:
        InputError: an unknown name or option, an option of another type, images too small, a prior that
            cannot be loaded, or a library that is not installed, lacks the network or cannot fetch it.
    """
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise InputError(f"encoders take grey or RGB images, of 1 or 3 channels, not {channels}")
    shape = (channels, height, width)
    return _build(name, shape, provenance, options).requires_grad_(False).eval()


def rebuild_encoder(config: Mapping[str, Any]) -> Encoder:
    """The encoder of a config that somebody may have changed, up to its weights. Reads and fetches nothing.

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


class WideResNetEncoder(Encoder):
    """Activations of a wide residual network's blocks, each averaged over a grid of cells.

    An activation is the ReLU of a block's output, normalised per image in 16 groups of channels, so that all
    depths count alike. Features go depth by depth, channel by channel, cell by cell.

    Args:
        name: of the encoder.
        image_shape: (C, H, W) of the images; grey ones are repeated to RGB.
        provenance: of the weights. They are random until they are loaded.
        network: "wrn-D-K".
        network_options: further arguments of :func:`dpvision.networks.build_network`.
        taps: indices of blocks, by default of the last block of each of the three stages.
        cells: sides of the grids, one for each tap or one for all; 1 averages over all positions, "all" over
            none. By default 4, 2 and 1 for blocks of the first, second and third stage, or as many positions
            as there are.

    Raises:
        InputError: a network, tap or grid that does not exist, or images too small for them.
    """

    def __init__(
        self,
        name: str,
        image_shape: Shape,
        provenance: Provenance,
        network: str,
        network_options: Mapping[str, Any],
        taps: Sequence[int] | None,
        cells: Cells | None,
    ) -> None:
        body = build_network(
            network, in_channels=3, image_size=image_shape[1:], num_classes=1, **network_options
        )
        if not isinstance(body, WideResNet):
            raise InputError(f"encoder {name} must be a wrn-D-K, such as wrn-16-4, not {network}")
        depth = len(body.stages)
        taps = [depth // 3 - 1, 2 * depth // 3 - 1, depth - 1] if taps is None else list(taps)
        if not taps or taps != sorted(set(taps) & set(range(depth))):
            raise InputError(f"taps must be some of 0..{depth - 1} in ascending order, not {taps}")
        config = {"name": name, "image_shape": list(image_shape), "taps": taps, "provenance": provenance}
        super().__init__(0, config)
        self.taps = taps
        self.stem = body.stem
        self.stages = nn.Sequential(*list(body.stages)[: taps[-1] + 1])

        shapes_only = copy.deepcopy(self).to("meta")
        activations = list(shapes_only.activations(torch.empty(1, *image_shape, device="meta")))
        positions = [(a.shape[2], a.shape[3]) for a in activations]
        if cells is None:
            cells = [min(4 >> (3 * tap // depth), *grid) for tap, grid in zip(taps, positions, strict=True)]
        elif isinstance(cells, int):
            cells = [cells] * len(taps)
        self.config["cells"] = cells if cells == "all" else list(cells)
        self.grids = positions if cells == "all" else _square_grids(cells, positions)
        for activation, (rows, columns) in zip(activations, self.grids, strict=True):
            self.out_features += activation.shape[1] * rows * columns

    def forward(self, x: Tensor) -> Tensor:
        averages = [
            F.adaptive_avg_pool2d(activation, grid).flatten(1)
            for activation, grid in zip(self.activations(x), self.grids, strict=True)
        ]
        return torch.cat(averages, dim=1)

    def activations(self, x: Tensor) -> Iterator[Tensor]:
        """The normalised activations of the taps, each ``[B, C', H', W']``."""
        x = self.stem(as_rgb(x))
        for index, block in enumerate(self.stages):
            x = block(x)
            if index in self.taps:
                yield F.group_norm(F.relu(x), 16)


class ScatteringEncoder(Encoder):
    """:class:`Scattering2d`, normalised per image and averaged over a grid of cells.

    Args:
        image_shape: (C, H, W) of the images.
        J: number of scales, as in :class:`Scattering2d`.
        L: number of angles.
        cells: the side of the grid, or None for all H // 2^J × W // 2^J positions.
        groups: groups of neighbouring channels that are normalised together, without learned parameters
            (as Tramèr and Boneh do, arXiv 2011.11660), or 0 to leave channels as they are.

    Raises:
        InputError: as :class:`Scattering2d`; a grid that is too fine; groups that do not divide the channels.
    """

    def __init__(self, image_shape: Shape, J: int, L: int, cells: int | None, groups: int) -> None:  # noqa: N803
        channels, height, width = image_shape
        scattering = Scattering2d((height, width), J, L)
        channels, height, width = channels * scattering.paths, height // 2**J, width // 2**J
        if groups < 0 or (groups and channels % groups):
            raise InputError(
                f"groups must divide the {channels} channels of this scattering, not be {groups}"
            )
        if cells is not None:
            _check_cells(cells, height, width)
        config = {
            "name": "scattering",
            "image_shape": list(image_shape),
            "J": J,
            "L": L,
            "cells": cells,
            "groups": groups,
            "provenance": {"source": "wavelets (arXiv 1203.1513); nothing learned"},
        }
        super().__init__(channels * (cells**2 if cells else height * width), config)
        self.scattering = scattering
        self.cells = cells
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        x = self.scattering(x)
        if self.groups:
            x = F.group_norm(x, self.groups)
        if self.cells:
            x = F.adaptive_avg_pool2d(x, self.cells)
        return x.flatten(1)


class ConcatenatedEncoder(Encoder):
    """The features of several encoders of the same images, one after the other.

    Those of each part are brought to norm one first (zero where it sees nothing), so that the scale and the
    number of its features do not decide how much it counts.

    Args:
        parts: of the same images.
        part_weights: the norms of their features instead, by default all 1.

    Raises:
        InputError: part_weights are not one for each part, none below 0 and one at least above.
    """

    def __init__(self, parts: Sequence[Encoder], part_weights: Sequence[float] | None = None) -> None:
        outer = ("name", "image_shape", "provenance")
        name = "+".join(part.config["name"] for part in parts)
        part_weights = [1] * len(parts) if part_weights is None else list(part_weights)
        if len(part_weights) != len(parts) or min(part_weights) < 0 or not 0 < sum(part_weights) < math.inf:
            raise InputError(
                f"encoder {name}: part_weights must be {len(parts)} numbers, none below 0 and not all 0, "
                f"not {part_weights}"
            )
        config = {
            "name": name,
            "image_shape": parts[0].config["image_shape"],
            "parts": [{key: part.config[key] for key in part.config if key not in outer} for part in parts],
            "part_weights": part_weights,
            "provenance": {"parts": [part.provenance for part in parts]},
        }
        super().__init__(sum(part.out_features for part in parts), config)
        self.parts = nn.ModuleList(parts)
        self.part_weights = part_weights

    def forward(self, x: Tensor) -> Tensor:
        weighted = zip(self.part_weights, self.parts, strict=True)
        return torch.cat([weight * F.normalize(part(x), dim=1) for weight, part in weighted], dim=1)

    def mean_directions(self, x: Tensor, groups: int) -> Tensor:
        """As if every part saw something in every image: then all features have one norm."""
        weighted = zip(self.part_weights, self.parts, strict=True)
        means = [weight * cast(Encoder, part).mean_directions(x, groups) for weight, part in weighted]
        return torch.cat(means, dim=1) / math.hypot(*self.part_weights)

    def shrunk(self, means: Tensor, noise: Tensor) -> Tensor:
        """Part by part."""
        return torch.cat([part.shrunk(m, noise) for part, m in self._by_part(means)], dim=1)

    def gaussian_images(self, means: Tensor, rank: int) -> GaussianImages | None:
        """Of the first part that knows any. A law of images does not depend on a part's weight."""
        found = (part.gaussian_images(m, rank) for part, m in self._by_part(means))
        return next((images for images in found if images is not None), None)

    def _by_part(self, means: Tensor) -> Iterator[tuple[Encoder, Tensor]]:
        parts = [cast(Encoder, part) for part in self.parts]
        return zip(parts, means.split([part.out_features for part in parts], dim=1), strict=True)


def _build(
    name: str, image_shape: Shape, provenance: Provenance | None, options: Mapping[str, Any]
) -> Encoder:
    library, _, model = name.partition(":")
    builder: Callable[..., Encoder]
    if "+" in name and not Path(name).is_file():
        builder = _sum
    elif name == "scattering":
        builder = _scattering
    elif re.fullmatch(r"random-wrn-\d+-\d+", name):
        builder = _random_wide_resnet
    elif name == "pixels":
        builder = pixels
    elif name in ARCHITECTURES:
        builder = file_encoder
    elif name == INCEPTION:
        builder = build_inception
    elif library in LIBRARIES and model:
        builder = LIBRARIES[library]
    elif provenance or name in list_priors() or name.endswith(".safetensors") or Path(name).is_file():
        builder = _prior
    else:
        raise InputError(
            f"there is no encoder '{name}'; give the path of a prior's file, one of "
            f"{', '.join((*list_priors(), *ENCODERS))}, or several of them joined by +"
        )
    check_options(f"encoder {name}", builder, options, ("name", "image_shape", "provenance"))
    if library in LIBRARIES or name == INCEPTION:
        with torch.device("cpu"):  # also where the caller wants no more than shapes: they look at numbers
            return builder(name, image_shape, provenance, **options)
    return builder(name, image_shape, provenance, **options)


def _sum(
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


def _prior(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    taps: Sequence[int] | None = None,
    cells: Cells | None = None,
) -> Encoder:
    weights = None
    if provenance is None:
        prior = load_prior(name)
        # The path stays private. A + would make a sum of the name.
        name, provenance, weights = prior.name.replace("+", "-"), prior.provenance, prior.weights
    network, network_options = provenance.get("network", ""), provenance.get("network_options", {})
    encoder = WideResNetEncoder(name, image_shape, provenance, network, network_options, taps, cells)
    if weights:
        encoder.load_state_dict({key: weights[key] for key in encoder.state_dict()})
    return encoder


def _random_wide_resnet(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    taps: Sequence[int] | None = None,
    cells: Cells | None = None,
    network_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Encoder:
    if not 0 <= seed < 1 << 63:
        raise InputError(f"encoder {name}: seed must be a whole number from 0 to 2**63 - 1, not {seed}")
    network = name.removeprefix("random-")
    provenance = provenance or {"source": f"random initialisation, seed {seed}; nothing learned"}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # a run that is resumed needs the same encoder
        encoder = WideResNetEncoder(
            name, image_shape, provenance, network, network_options or {}, taps, cells
        )
    encoder.config |= {"network_options": dict(network_options or {}), "seed": seed}
    return encoder


def _scattering(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    J: int = 2,  # noqa: N803 (as in the papers)
    L: int = 8,  # noqa: N803
    cells: int | None = None,
    groups: int = 27,
) -> Encoder:
    return ScatteringEncoder(image_shape, J, L, cells, groups)


def _square_grids(sides: Sequence[int], positions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    if isinstance(sides, str) or len(sides) != len(positions):
        raise InputError(
            f'cells must be one number, or one for each of {len(positions)} taps, or "all", not {sides}'
        )
    for side, (height, width) in zip(sides, positions, strict=True):
        _check_cells(side, height, width)
    return [(side, side) for side in sides]


def _check_cells(cells: int, height: int, width: int) -> None:
    if not 1 <= cells <= min(height, width):
        raise InputError(
            f"cells must be between 1 and {min(height, width)} where there are {height}×{width} positions, "
            f"not {cells}"
        )
