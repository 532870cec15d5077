"""Define what every encoder is: a frozen module that knows how to be built again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks.gaussian_images import GaussianImages
from dpvision.privacy.errors import InputError

Shape = tuple[int, int, int]
"""The shape (C, H, W) of images."""

Provenance = dict[str, Any]
"""A record of where weights came from, as JSON types."""

Tell = Callable[[int, int], None]
"""It is told how many of how many images are done."""


class Encoder(nn.Module):
    """Maps images ``[B, C, H, W]``, as :class:`dpvision.networks.Normalize` gives them, to ``[B, D]``.

    It stays in evaluation mode, whatever module it becomes part of: a BatchNorm in training mode would carry
    statistics of private images along.

    Attributes:
        out_features: D. The features are float32.
        config: JSON types. :func:`dpvision.priors.build_encoder`, called with it, makes the same
            encoder up to its weights, which the state_dict brings; it needs no prior's file and fetches none.
        provenance: JSON types: where the weights came from. Part of config.
        images_to_fit: how many images of random processes it looks at when it is fitted.
        bytes_to_fit: the memory that this takes, nearly.
        concurrent: it may be called in several threads at a time. One with hooks may not.
    """

    images_to_fit = 0
    bytes_to_fit = 0
    concurrent = False

    def __init__(self, out_features: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.out_features = out_features
        self.config = config

    @property
    def provenance(self) -> Provenance:
        return self.config["provenance"]

    def train(self, mode: bool = True) -> Encoder:
        return super().train(False)

    def digest(self) -> bytes:
        """Return the SHA-256 of all that features follow from: the configuration and the weights."""
        sha256 = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        for name, tensor in self.state_dict().items():
            sha256.update(repr((name, tensor.dtype, tensor.shape)).encode())
            sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return sha256.digest()

    def fit(self, tell: Tell | None = None) -> None:
        """Learn what it needs from images of random processes, which are public, unless weights bring it.
        Here: nothing.
        """

    def mean_directions(self, x: Tensor, groups: int) -> Tensor:
        """Return the mean of e / ‖e‖ over each of so many groups of features e, zero counting as zero.

        Args:
            x: images ``[B, C, H, W]``, those of the first group first, all groups of one size.
            groups: G.

        Returns:
            ``[G, D]``.
        """
        return F.normalize(self(x), dim=1).unflatten(0, (groups, -1)).mean(dim=1)

    def shrunk(self, means: Tensor, noise: Tensor) -> Tensor:
        """Bring mean directions that were released with noise nearer to what they were before, by what is
        known of all means of such features. Here: do nothing.

        Args:
            means: ``[K, D]``.
            noise: the standard deviation on every number of a mean, ``[K]``.

        Returns:
            ``[K, D]``.
        """
        return means

    def gaussian_images(self, means: Tensor, rank: int) -> GaussianImages | None:
        """Return images of K classes as these mean directions ``[K, D]`` have them, in closed form and of
        that rank, or None where features do not say so much.
        """
        return None


def as_rgb(x: Tensor) -> Tensor:
    """Return grey or RGB images ``[B, 1 or 3, H, W]`` as ``[B, 3, H, W]``."""
    return x.expand(-1, 3, -1, -1)


def check_cells(cells: int, height: int, width: int) -> None:
    """Raise InputError unless a grid of that side can be laid over so many positions."""
    if not 1 <= cells <= min(height, width):
        raise InputError(
            f"cells must be between 1 and {min(height, width)} where there are {height}×{width} positions, "
            f"not {cells}"
        )
