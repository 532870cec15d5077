"""Features of an encoder, whitened by what they are on images of random processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpvision.images.rows_on_disk import gathered
from dpvision.networks import Normalize
from dpvision.networks.by_row import by_row
from dpvision.priors.encoders.encoder import Encoder, Tell
from dpvision.priors.encoders.process_images import process_images
from dpvision.privacy.errors import InputError

FEWEST_IMAGES, MOST_IMAGES, IMAGES_PER_FEATURE = 1000, 6000, 3

MOST_PIXELS = 6000 * 64 * 64  # of all of them together, unless they are fewer than the fewest

MOST_FEATURES = 12_000
"""The largest number of features that can be whitened."""

MOST_DIRECTIONS = 2048
"""The number of principal directions that are whitened; the variance along others counts as zero. They are
part of every release: 16 MB for as many features, 98 MB for the largest number.
"""

SEED = 0


class WhitenedEncoder(Encoder):
    """Features e of another encoder as (C + λ·v̄·I)^(−1/2) (e − μ).

    The mean μ and the covariance C are those over 1,000 to 6,000 images of random processes, which are
    public, the more the more features there are; v̄ is the mean eigenvalue of C. A noisy linear head then
    learns as fast in directions in which such images differ little as in those few in which they differ most.

    Args:
        inner: the other encoder. It is part of this one.
        whiten: λ, which keeps directions in which they hardly differ from counting for much.

    Raises:
        InputError: λ is not above 0; more features than `MOST_FEATURES`.
    """

    mean: Tensor
    directions: Tensor
    gains: Tensor
    scale: Tensor

    def __init__(self, inner: Encoder, whiten: float) -> None:
        name, size = inner.config["name"], inner.out_features
        if not 0 < whiten < math.inf:
            raise InputError(f"encoder {name}: whiten must be above 0 and finite, not {whiten}")
        if size > MOST_FEATURES:
            raise InputError(
                f"encoder {name}: {size} features are more than {MOST_FEATURES}, which can be whitened; "
                f"choose fewer, for example by coarser cells"
            )
        super().__init__(size, {**inner.config, "whiten": whiten})
        self.inner, self.whiten, self.concurrent = inner, whiten, inner.concurrent
        _, height, width = self.config["image_shape"]
        affordable = min(MOST_IMAGES, MOST_PIXELS // (height * width))
        self.images = max(FEWEST_IMAGES, min(IMAGES_PER_FEATURE * size, affordable))
        self.images_to_fit = inner.images_to_fit + self.images
        # In float64: the features, and of the smaller side's square four, for the eigenvectors take three.
        self.bytes_to_fit = 8 * (self.images * size + 4 * min(self.images, size) ** 2)
        self.register_buffer("mean", torch.zeros(size))
        rank = min(size, MOST_DIRECTIONS, self.images - 1)
        self.register_buffer("directions", torch.zeros(size, rank))
        self.register_buffer("gains", torch.zeros(rank))  # less the scale
        self.register_buffer("scale", torch.ones(()))  # of all directions

    def forward(self, x: Tensor) -> Tensor:
        features = self.inner(x).float() - self.mean
        with torch.autocast(x.device.type, enabled=False):  # small differences that whitening makes large
            along = (features @ self.directions) * self.gains
            return self.scale * features + along @ self.directions.T

    @torch.no_grad()
    def fit(self, tell: Tell | None = None) -> None:
        """Fit the other encoder, then take mean and covariance of its features of images of processes."""
        before = self.inner.images_to_fit
        self.inner.fit(tell and (lambda done, _: tell(done, self.images_to_fit)))
        device, shape = self.mean.device, self.config["image_shape"]
        normalize = Normalize().to(device)
        parts = by_row(
            lambda rows: self.inner(normalize(rows)),
            lambda count: torch.cat(list(process_images(shape, self.images, SEED))).split(count),
            shape,
            device,
            concurrent=self.concurrent,
        )

        def told(done: int) -> None:
            if tell:
                tell(before + done, self.images_to_fit)

        features = gathered(parts, self.images, told, dtype=torch.float64)
        mean = features.mean(dim=0)
        self.mean.copy_(mean)
        variances, directions = principal_directions(features.sub_(mean))
        floor = self.whiten * variances.sum() / self.out_features
        if not floor > 0:
            raise InputError(
                f"encoder {self.config['name']} gives the same for all images of random processes; it cannot "
                f"be whitened"
            )
        rank = len(self.gains)
        self.scale.copy_(floor.rsqrt())
        self.gains.copy_((variances[-rank:] + floor).rsqrt() - floor.rsqrt())
        self.directions.copy_(directions[:, -rank:])


def principal_directions(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances ``[r]`` of centred rows ``[n, D]`` along their principal directions, and these,
    ``[D, r]``, smallest first; r is the smaller of n and D.
    """
    count, size = centred.shape
    if size <= count:
        variances, directions = torch.linalg.eigh(centred.T @ centred / count)
        return variances.clamp(min=0), directions
    variances, coordinates = torch.linalg.eigh(centred @ centred.T / count)
    # The rows add up to zero, so that one direction has no variance; others may have none either.
    scale = (count * variances.clamp(min=1e-12 * float(variances.max()))).rsqrt()
    return variances.clamp(min=0), centred.T @ coordinates * scale
