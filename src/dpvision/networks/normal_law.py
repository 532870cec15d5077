"""Take noise from images as is best where those of a class have a normal law, and draw noisy images of it.

Of N(0, Σ) with noise of standard deviation σ the best guess is Σ(Σ + σ²)⁻¹x. A network that adds to this
guess need not learn what the moments of each class say already.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SPREAD = 0.5
"""The standard deviation that pixels, from −1 to 1, are taken to have where no law is known."""


class NormalLaw(nn.Module):
    """Normal laws of images about the centres of their classes: variances along R directions, and what is
    left in all others alike. At first, and of images of no known class, each pixel has the variance
    `SPREAD`².

    Args:
        num_classes: K; at least 1.
        num_pixels: n, of all channels.
        rank: R, at most n.

    Attributes:
        directions: buffer ``[K, n, R]``, orthonormal columns, or zeros.
        variances: buffer ``[K, R]``.
        rest: buffer ``[K]``, the variance along every other direction.
    """

    directions: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, num_classes: int, num_pixels: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("directions", torch.zeros(num_classes, num_pixels, rank))
        self.register_buffer("variances", torch.full((num_classes, rank), SPREAD**2))
        self.register_buffer("rest", torch.full((num_classes,), SPREAD**2))

    @torch.no_grad()
    def fit(self, label: int, images: Tensor) -> None:
        """Take the law of a class from images ``[M, n]`` that are less their mean, more of them than R."""
        rank, num_pixels = self.directions.shape[2], self.directions.shape[1]
        with torch.random.fork_rng(devices=[]):  # of many directions the largest are looked for at random
            torch.manual_seed(0)
            _, lengths, found = torch.svd_lowrank(images, min(2 * rank, *images.shape), niter=4)
        variances = lengths[:rank].square() / len(images)
        left = images.square().sum() / len(images) - variances.sum()
        self.directions[label] = found[:, :rank]
        self.variances[label] = variances
        self.rest[label] = left.clamp(min=0) / max(1, num_pixels - rank)

    def denoised(self, x: Tensor, sigma: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Guess what images ``[N, C, H, W]``, less their centres, are without their noise of standard
        deviation ``sigma`` ``[N, 1]``. Classes are one-hot rows ``[N, K]``, or zeros. Returns the guesses,
        and by how much they are wrong, ``[N, 1]``, as a root mean square over pixels.
        """
        directions, variances, rest = self._of(classes)
        noise = sigma.square()
        along, elsewhere = variances / (variances + noise), rest / (rest + noise)
        num_pixels, rank = directions.shape[1:]
        of_all = along.sum(dim=1, keepdim=True) + (num_pixels - rank) * elsewhere
        wrong = (noise * of_all / num_pixels).sqrt()
        return _scaled(x, directions, along, elsewhere), wrong

    def drawn(self, noise: Tensor, sigma: float, classes: Tensor) -> Tensor:
        """Return images of their classes' laws ``[N, C, H, W]``, less their centres, with noise of standard
        deviation ``sigma``: made of standard normal ``noise`` of that shape.
        """
        directions, variances, rest = self._of(classes)
        return _scaled(noise, directions, (variances + sigma**2).sqrt(), (rest + sigma**2).sqrt())

    def _of(self, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the directions ``[N, n, R]``, variances ``[N, R]`` and rests ``[N, 1]`` of classes."""
        known, label = classes.amax(dim=1, keepdim=True).clamp(0, 1), classes.argmax(dim=1)
        unknown = (1 - known) * SPREAD**2
        variances = known * self.variances[label] + unknown
        return self.directions[label], variances, known * self.rest[label, None] + unknown


def _scaled(x: Tensor, directions: Tensor, along: Tensor, elsewhere: Tensor) -> Tensor:
    """Scale images ``[N, C, H, W]`` by ``along`` ``[N, R]`` along directions ``[N, n, R]``, and by
    ``elsewhere`` ``[N, 1]`` along all others.

    Image by image, though one product of all would be faster: it would round each by where it is among the
    others, and what an image adds to a sum depends on no other.
    """
    with torch.autocast(x.device.type, enabled=False):
        flat = x.flatten(1)
        parts = torch.bmm(flat[:, None], directions) * (along - elsewhere)[:, None]
        scaled = elsewhere * flat + torch.bmm(parts, directions.transpose(1, 2)).squeeze(1)
    return scaled.unflatten(1, x.shape[1:])
