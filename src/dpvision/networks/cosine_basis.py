"""Images as cosine waves: an orthonormal basis in which photographs and drawings have few large numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_OPPONENT = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
OPPONENT_COLOURS = _OPPONENT / _OPPONENT.norm(dim=1, keepdim=True)
"""Brightness, red less blue, and both less green: RGB in an orthonormal basis, ``[3, 3]``."""


class CosineBasis:
    """The two-dimensional discrete cosine transform (type II, orthonormal) of images, brightness apart from
    colours.

    Args:
        shape: (C, H, W), of 1 or 3 channels; n = C·H·W.

    Attributes:
        frequencies: ``[n]``, the length of each wave's pair of numbers of half periods.
        bands: int64 ``[n]``; waves of one channel and of nearly one frequency have one number.
        band_sizes: int64 ``[n]``, how many waves are of a wave's band.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        channels, height, width = shape
        self.shape = (channels, height, width)
        self._colours = OPPONENT_COLOURS if channels == 3 else torch.eye(channels)
        self._rows, self._columns = _waves(height), _waves(width)
        lengths = torch.arange(height)[:, None] ** 2 + torch.arange(width)[None] ** 2
        one = lengths.double().sqrt().flatten()
        self.frequencies = one.repeat(channels).float()
        by_channel = torch.arange(channels).repeat_interleave(len(one))
        # Six bands to a factor of e: waves of one band have about the same share of an image.
        names = by_channel * 1000 + (6 * torch.log1p(self.frequencies)).long()
        _, self.bands, counts = torch.unique(names, return_inverse=True, return_counts=True)
        self.band_sizes = counts[self.bands]

    def waves_of(self, images: Tensor) -> Tensor:
        """Return images ``[B, C, H, W]`` in the basis: ``[B, n]``, waves of one channel beside each other."""
        colours, rows, columns = (t.to(images) for t in (self._colours, self._rows, self._columns))
        x = torch.einsum("ij,bjhw->bihw", colours, images)
        return (rows @ x @ columns.T).flatten(1)

    def images_of(self, waves: Tensor) -> Tensor:
        """Return the images ``[B, C, H, W]`` of waves ``[B, n]``."""
        colours, rows, columns = (t.to(waves) for t in (self._colours, self._rows, self._columns))
        x = rows.T @ waves.unflatten(1, self.shape) @ columns
        return torch.einsum("ij,bihw->bjhw", colours, x)

    def mean_by_band(self, values: Tensor) -> Tensor:
        """Return values ``[..., n]``, each replaced by the mean over its band."""
        of_band = F.one_hot(self.bands).to(values)  # [n, bands]
        return (values @ of_band / of_band.sum(dim=0))[..., self.bands]


def _waves(side: int) -> Tensor:
    """Return the waves of one dimension, ``[side, side]``, a row for each."""
    k, i = torch.arange(side).double(), torch.arange(side).double()
    waves = torch.cos(math.pi / side * k[:, None] * (i + 0.5)) * math.sqrt(2 / side)
    waves[0] /= math.sqrt(2)
    return waves.float()
