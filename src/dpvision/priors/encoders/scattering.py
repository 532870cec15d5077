"""Wavelet scattering as features: nothing learned."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dpvision.networks.scattering import Scattering2d
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape, check_cells
from dpvision.privacy.errors import InputError


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

    concurrent = True

    def __init__(self, image_shape: Shape, J: int, L: int, cells: int | None, groups: int) -> None:  # noqa: N803
        channels, height, width = image_shape
        scattering = Scattering2d((height, width), J, L)
        channels, height, width = channels * scattering.paths, height // 2**J, width // 2**J
        if groups < 0 or (groups and channels % groups):
            raise InputError(
                f"groups must divide the {channels} channels of this scattering, not be {groups}"
            )
        if cells is not None:
            check_cells(cells, height, width)
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


def build_scattering(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    J: int = 2,  # noqa: N803 (as in the papers)
    L: int = 8,  # noqa: N803
    cells: int | None = None,
    groups: int = 27,
) -> Encoder:
    """Build the encoder "scattering"."""
    return ScatteringEncoder(image_shape, J, L, cells, groups)
