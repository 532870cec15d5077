"""Activations of wide residual networks: learned ones, from a prior's file, or untrained ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks import WideResNet, build_network
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape, as_rgb, check_cells
from dpvision.priors.phase_one.prior_file import load_prior
from dpvision.privacy.errors import InputError

Cells = int | Sequence[int] | Literal["all"]
"""The sides of the grids over which a :class:`WideResNetEncoder` averages."""


class WideResNetEncoder(Encoder):
    """Activations of a wide residual network's blocks, each averaged over a grid of cells.

    An activation is the ReLU of a block's output, normalised per image in 16 groups of channels, so that all
    depths count alike. Features go depth by depth, channel by channel, cell by cell.

    Args:
        name: the name of the encoder.
        image_shape: (C, H, W) of the images; grey ones are repeated to RGB.
        provenance: the provenance of the weights. They are random until they are loaded.
        network: "wrn-D-K".
        network_options: further arguments of :func:`dpvision.networks.build_network`.
        taps: indices of blocks, by default of the last block of each of the three stages.
        cells: sides of the grids, one for each tap or one for all; 1 averages over all positions, "all" over
            none. By default 4, 2 and 1 for blocks of the first, second and third stage, or as many positions
            as there are.

    Raises:
        InputError: a network, tap or grid that does not exist, or images too small for them.
    """

    concurrent = True

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
        """Return the normalised activations of the taps, each ``[B, C', H', W']``."""
        x = as_rgb(x)
        if not torch.is_grad_enabled():  # convolutions on a CPU then take two thirds of the time
            x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        for index, block in enumerate(self.stages):
            x = block(x)
            if index in self.taps:
                yield F.group_norm(F.relu(x), 16)


def build_prior(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    taps: Sequence[int] | None = None,
    cells: Cells | None = None,
) -> Encoder:
    """Build the encoder of a prior: a bundled one, or one of the file of that path."""
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


def build_random_wide_resnet(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    taps: Sequence[int] | None = None,
    cells: Cells | None = None,
    network_options: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Encoder:
    """Build the encoder "random-wrn-D-K", with weights of a seed."""
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


def _square_grids(sides: Sequence[int], positions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    if isinstance(sides, str) or len(sides) != len(positions):
        raise InputError(
            f'cells must be one number, or one for each of {len(positions)} taps, or "all", not {sides}'
        )
    for side, (height, width) in zip(sides, positions, strict=True):
        check_cells(side, height, width)
    return [(side, side) for side in sides]
