"""Images with given second moments of their pixels, class by class, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpvision.networks.details import details_of, drawn, scaled

SMALLEST_SHARE = 1e-3
"""The least that the constant's moment may be of the whole. It divides all others, and it has noise."""


class GaussianImages(nn.Module):
    """A normal law of pixels for each of K classes, zero until :meth:`set_moments`.

    Where moments are of smaller images, these are scaled to size. They are then smoother than any photograph,
    and what is learned from them fails on one; so they can be given the details of public images, drawn at
    random, the same for all classes.

    Args:
        num_classes: K.
        small_shape: (C, S, S) of the images that have the law, n pixels in all.
        size: (H, W), to which these are scaled.
        rank: R, at most n; so many directions of the covariance are kept.
        num_details: M, how many details there are to draw from, zero until :meth:`set_details`.

    Attributes:
        mean: buffer ``[K, n]``.
        root: buffer ``[K, n, R]``; a class's covariance is root·rootᵀ.
        details: buffer int8 ``[M, C, H, W]``, in units of 1 / 127.
    """

    mean: Tensor
    root: Tensor
    details: Tensor

    def __init__(
        self,
        num_classes: int,
        small_shape: Sequence[int],
        size: Sequence[int],
        rank: int,
        num_details: int = 0,
    ) -> None:
        super().__init__()
        channels, rows, columns = small_shape
        self.small_shape, self.size = (channels, rows, columns), tuple(size)
        pixels = channels * rows * columns
        self.register_buffer("mean", torch.zeros(num_classes, pixels))
        self.register_buffer("root", torch.zeros(num_classes, pixels, min(rank, pixels)))
        details = torch.zeros(num_details, channels, *self.size, dtype=torch.int8)
        self.register_buffer("details", details)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, as JSON types, that make the same module, up to its buffers."""
        num_classes, _, rank = self.root.shape
        return {
            "num_classes": num_classes,
            "small_shape": list(self.small_shape),
            "size": list(self.size),
            "rank": rank,
            "num_details": len(self.details),
        }

    def set_moments(self, moments: Tensor) -> None:
        """Take the means and covariances of v = (pixels, 1), and of these the largest directions.

        Args:
            moments: means of vvᵀ, times any number above 0: ``[K, n + 1, n + 1]``, no eigenvalue below 0.
        """
        whole = moments.diagonal(dim1=1, dim2=2).sum(dim=1).clamp(min=torch.finfo(moments.dtype).tiny)
        ones = moments[:, -1, -1].maximum(SMALLEST_SHARE * whole)[:, None]
        mean = moments[:, :-1, -1] / ones
        covariance = moments[:, :-1, :-1] / ones[:, :, None] - mean[:, :, None] * mean[:, None, :]
        values, directions = torch.linalg.eigh(covariance)  # ascending
        root = directions * values.clamp(min=0).sqrt()[:, None, :]
        self.mean.copy_(mean)
        self.root.copy_(root.flip(2)[:, :, : self.root.shape[2]])

    def set_details(self, images: Tensor) -> None:
        """Take what public images ``[M, C, H, W]`` in [0, 1] lose when averaged to half the small size."""
        self.details = details_of(images, self.small_shape[1:])

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        """Make images ``[B, C, H, W]``, not limited to [0, 1], of int64 labels ``[B]`` and normal noise
        ``[B, at least R, and one more where there are details]``.
        """
        root = self.root[labels]
        with torch.autocast(noise.device.type, enabled=False):
            x = self.mean[labels] + (root @ noise[:, : root.shape[2], None]).squeeze(2)
        x = scaled(x.unflatten(1, self.small_shape), self.size)
        return x + drawn(self.details, noise[:, -1]) if len(self.details) else x
