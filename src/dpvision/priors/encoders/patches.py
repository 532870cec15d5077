"""Patches of an image compared with a dictionary of patches, which was learned from random processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.networks import Normalize
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape, Tell, check_cells
from dpvision.priors.encoders.process_images import process_images
from dpvision.privacy.errors import InputError

LEAST_VARIANCE = 10 / (255 * Normalize.STD) ** 2
"""What is added to the variance of a patch, as Coates and Ng do: 10 for pixels up to 255."""

RIDGE = 0.1  # of patches' covariance, likewise

IMAGES, PATCHES_OF_EACH, ROUNDS = 2000, 50, 15


class PatchEncoder(Encoder):
    """Similarities of all patches of an image to a dictionary, averaged over a grid of cells (Coates and Ng,
    2011, "The importance of encoding versus training with sparse coding and vector quantization").

    Patches are brought to mean 0 and variance 1 and whitened. Their products with each of the dictionary's
    entries, which are centroids of spherical k-means over whitened patches of random processes, go through
    two-sided soft thresholds, max(0, y − t) and max(0, −y − t). Grey images have grey patches.

    Args:
        image_shape: (C, H, W) of the images.
        centroids: the number of entries of the dictionary, k.
        size: the side of a patch in pixels.
        cells: the side of the grid. D is 2·k·cells².
        threshold: t.
        seed: of the images of random processes and of the dictionary.

    Raises:
        InputError: a number out of its range; images smaller than a patch, or too small for the grid.
    """

    concurrent = True

    filters: Tensor
    offsets: Tensor
    cell_means: Tensor

    def __init__(
        self, image_shape: Shape, centroids: int, size: int, cells: int, threshold: float, seed: int
    ) -> None:
        channels, height, width = image_shape
        if not 2 <= size <= min(height, width):
            raise InputError(
                f"encoder patches: size must be between 2 and {min(height, width)} for images of "
                f"{height}×{width} pixels, not {size}"
            )
        if not 1 <= centroids <= IMAGES * PATCHES_OF_EACH or not 0 <= threshold < float("inf"):
            raise InputError(
                f"encoder patches: centroids must be between 1 and {IMAGES * PATCHES_OF_EACH} and threshold "
                f"at least 0, not {centroids} and {threshold}"
            )
        if not 0 <= seed < 1 << 63:
            raise InputError(f"encoder patches: seed must be a whole number from 0 to 2**63 - 1, not {seed}")
        check_cells(cells, height - size + 1, width - size + 1)
        config = {
            "name": "patches",
            "image_shape": list(image_shape),
            "centroids": centroids,
            "size": size,
            "cells": cells,
            "threshold": threshold,
            "seed": seed,
            "provenance": {"source": f"patches of random processes, seed {seed}; no photograph"},
        }
        super().__init__(2 * centroids * cells**2, config)
        self.size, self.cells, self.threshold, self.seed = size, cells, threshold, seed
        self.images_to_fit = IMAGES
        self.register_buffer("filters", torch.zeros(centroids, channels, size, size))
        self.register_buffer("offsets", torch.zeros(centroids))
        # One row for each cell: the mean over its positions, as a matrix product.
        positions = torch.eye((height - size + 1) * (width - size + 1))
        positions = positions.unflatten(1, (height - size + 1, width - size + 1))
        self.register_buffer(
            "cell_means", F.adaptive_avg_pool2d(positions, cells).flatten(1).T, persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        with torch.autocast(x.device.type, enabled=False):  # small differences of similar patches
            mean = F.avg_pool2d(x.mean(dim=1, keepdim=True), self.size, 1)
            square = F.avg_pool2d(x.square().mean(dim=1, keepdim=True), self.size, 1)
            scale = (square - mean.square()).clamp(min=0).add(LEAST_VARIANCE).rsqrt()
            # Filters sum to zero, so that the mean of a patch needs no subtraction. [B, positions, k]
            patches = (F.unfold(x, self.size) * scale.flatten(2)).transpose(1, 2)
            products = torch.baddbmm(
                -self.offsets, patches, self.filters.flatten(1).T.expand(x.shape[0], -1, -1)
            )
            above = self.cell_means @ F.relu(products - self.threshold)
            below = self.cell_means @ F.relu(-products - self.threshold)
            return torch.cat([above, below], dim=2).flatten(1)

    @torch.no_grad()
    def fit(self, tell: Tell | None = None) -> None:
        """Learn the dictionary from images of random processes."""
        channels, height, width = self.config["image_shape"]
        generator = torch.Generator().manual_seed(self.seed)
        normalize, found, done = Normalize(), [], 0
        for images in process_images((channels, height, width), IMAGES, self.seed):
            rows = F.unfold(normalize(images), self.size).transpose(1, 2)  # [B, positions, C·size²]
            chosen = torch.randint(rows.shape[1], (len(rows), PATCHES_OF_EACH), generator=generator)
            found.append(rows.gather(1, chosen.unsqueeze(2).expand(-1, -1, rows.shape[2])).flatten(0, 1))
            done += len(images)
            if tell:
                tell(done, IMAGES)
        patches = torch.cat(found)
        patches = patches - patches.mean(dim=1, keepdim=True)
        patches *= (patches.square().mean(dim=1, keepdim=True) + LEAST_VARIANCE).rsqrt()
        mean = patches.mean(dim=0)
        values, vectors = torch.linalg.eigh(((patches - mean).T @ (patches - mean) / len(patches)).double())
        whitening = ((vectors * (values.clamp(min=0) + RIDGE).rsqrt()) @ vectors.T).float()
        filters = _spherical_k_means((patches - mean) @ whitening, len(self.filters), generator) @ whitening
        self.offsets.copy_(filters @ mean)
        self.filters.copy_((filters - filters.mean(dim=1, keepdim=True)).view_as(self.filters))


def _spherical_k_means(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return so many centroids of norm one of ``[N, d]``, where rows belong to the one whose product with
    them is largest in size, with its sign.
    """
    centroids = F.normalize(rows[torch.randperm(len(rows), generator=generator)[:count]], dim=1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(centroids)
        for some in rows.split(10_000):
            products = some @ centroids.T
            nearest = products.abs().argmax(dim=1)
            own = products.gather(1, nearest.unsqueeze(1))
            sums.index_add_(0, nearest, own * some)
        # One to which nothing belongs stays as it is.
        centroids = F.normalize(torch.where(sums.norm(dim=1, keepdim=True) > 0, sums, centroids), dim=1)
    return centroids


def build_patches(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    centroids: int = 500,
    size: int = 6,
    cells: int = 2,
    threshold: float = 0.5,
    seed: int = 0,
) -> Encoder:
    """Build the encoder "patches"."""
    return PatchEncoder(image_shape, centroids, size, cells, threshold, seed)
