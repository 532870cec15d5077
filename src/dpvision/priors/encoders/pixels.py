"""Pixels as features: nothing learned, and nothing but the images themselves."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.networks import Normalize
from dpvision.networks.gaussian_images import GaussianImages
from dpvision.priors.encoders.encoder import Encoder, Provenance, Shape
from dpvision.privacy.errors import InputError
from dpvision.privacy.triangles import Triangle

MOST_PRODUCTS = 10_000_000
"""The largest number of products. Each takes 20 bytes to say which it is. Those of 32 x 32 pixels in RGB are
half as many.
"""


class PixelEncoder(Encoder):
    """Pixels in [0, 1], or all products of two of them.

    The products are the :class:`Triangle` of the matrix ``v vᵀ`` with ``v = (pixels, 1)``. Their mean over
    images is the pixels' second moment, and with it their mean.

    D is n = C·size² (or C·H·W), or (n + 1)(n + 2) / 2 products.

    Args:
        image_shape: (C, H, W) of the images.
        size: the side in pixels to which images are averaged, or None to leave them as they are.
        products: whether the features are products.

    Raises:
        InputError: size is not between 1 and the images' shorter side; too many products.
    """

    concurrent = True

    rows: Tensor
    columns: Tensor
    factors: Tensor

    def __init__(self, image_shape: Shape, size: int | None, products: bool) -> None:
        channels, height, width = image_shape
        if size is not None and not 1 <= size <= min(height, width):
            raise InputError(
                f"encoder pixels: size must be between 1 and {min(height, width)} for images of "
                f"{height}×{width} pixels, not {size}"
            )
        config = {
            "name": "pixels",
            "image_shape": list(image_shape),
            "size": size,
            "products": products,
            "provenance": {"source": "pixels; nothing learned"},
        }
        count = channels * (height * width if size is None else size**2)
        num_features = (count + 1) * (count + 2) // 2 if products else count
        if products and num_features > MOST_PRODUCTS:
            raise InputError(
                f"encoder pixels: images of {count} numbers have {num_features} products, more than "
                f"{MOST_PRODUCTS}; choose a smaller size"
            )
        super().__init__(num_features, config)
        self.size, self.products = size, products
        self.mean, self.std = Normalize.MEAN, Normalize.STD
        if products:
            with torch.device("cpu"):  # also for those who want no more than shapes
                triangle = Triangle.of(count + 1)
            self.register_buffer("rows", triangle.rows, persistent=False)
            self.register_buffer("columns", triangle.columns, persistent=False)
            self.register_buffer("factors", triangle.factors.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self._vectors(x)
        if self.products:
            x = x.index_select(1, self.rows) * x.index_select(1, self.columns) * self.factors
        return x

    def mean_directions(self, x: Tensor, groups: int) -> Tensor:
        """Compute the mean directions of products by a matrix product, for the direction of vvᵀ is the
        product of those of v: no D numbers are made for each image.
        """
        if not self.products:
            return super().mean_directions(x, groups)
        v = F.normalize(self._vectors(x), dim=1).unflatten(0, (groups, -1))  # [G, B / G, n + 1]
        with torch.autocast(x.device.type, enabled=False):  # small moments beside large ones
            return self._triangle.pack(v.transpose(1, 2) @ v / v.shape[1])

    def shrunk(self, means: Tensor, noise: Tensor) -> Tensor:
        """Remove the eigenvalues that noise alone would have from the matrices of products. Those of a
        symmetric matrix of n + 1 rows with such noise end at √(2 (n + 1)) times its standard deviation
        (Wigner).
        """
        if not self.products:
            return means
        moments = self._triangle.unpack(means)
        values, vectors = torch.linalg.eigh(moments)
        edge = noise[:, None] * math.sqrt(2 * moments.shape[1])
        kept = torch.where(values > edge, values, 0)
        return self._triangle.pack((vectors * kept[:, None, :]) @ vectors.transpose(1, 2))

    def gaussian_images(self, means: Tensor, rank: int) -> GaussianImages | None:
        """Return images by the moments that products give, which are all that a normal law has; else None.

        The moments are those of images that count by 1 / ‖v‖², as they do in mean directions: dark ones
        somewhat more than bright ones.
        """
        if not self.products:
            return None
        channels, *sides = self.config["image_shape"]
        small = sides if self.size is None else [self.size, self.size]
        law = GaussianImages(len(means), (channels, *small), sides, rank).to(means.device)
        law.set_moments(self._triangle.unpack(means))
        return law

    @property
    def _triangle(self) -> Triangle:
        """That of matrices ``[K, n + 1, n + 1]``, on the encoder's device."""
        return Triangle(self.rows, self.columns, self.factors)

    def _vectors(self, x: Tensor) -> Tensor:
        """Return v for each image, or the pixels alone: ``[B, n + 1]`` or ``[B, n]``."""
        x = x.to(torch.promote_types(x.dtype, torch.float32)) * self.std + self.mean
        if self.size is not None:
            x = F.adaptive_avg_pool2d(x, self.size)
        return F.pad(x.flatten(1), (0, 1), value=1.0) if self.products else x.flatten(1)


def build_pixels(
    name: str,
    image_shape: Shape,
    provenance: Provenance | None,
    *,
    size: int | None = None,
    products: bool = False,
) -> Encoder:
    """Build the encoder "pixels"."""
    return PixelEncoder(image_shape, size, products)
