"""Random palettes: the colours of an image, as marginals along the palette's own principal axes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.priors.processes.marginals import argsort, match_marginals
from dpvision.priors.processes.noise import uniform

MOST_COLOURS = 22
WIDEST_BLUR = 10  # rows of the sorted palette image
NOISE = 0.04


@dataclass(frozen=True)
class Palette:
    """The colours of a batch of images in the space of their principal components (arXiv 2106.05963).

    Attributes:
        mean: ``[B, 3]``, in RGB.
        axes: ``[B, 3, 3]``, a principal axis in each column, the one of least variance first.
        marginals: ``[B, 3, n]``, the n pixels' coordinate along each axis, ascending.
    """

    mean: Tensor
    axes: Tensor
    marginals: Tensor

    @classmethod
    def draw(cls, count: int, size: int, generator: torch.Generator) -> Palette:
        """Draw palettes for ``count`` images of ``size`` × ``size`` pixels, from :func:`random_colours`."""
        colours = random_colours(count, size, generator)
        mean = colours.mean(1)
        centred = colours - mean[:, None]
        _, axes = torch.linalg.eigh(centred.mT @ centred)
        coordinates = (centred @ axes).mT
        return cls(mean, axes, coordinates.gather(-1, argsort(coordinates)))

    def impose(self, images: Tensor) -> Tensor:
        """Give images ``[B, 3, H, W]``, whose channels are principal components, the palette's marginals."""
        return match_marginals(images.flatten(2), self.marginals).view_as(images)

    def to_rgb(self, images: Tensor) -> Tensor:
        """Convert principal components ``[B, 3, H, W]`` to RGB of the same shape.

        The components are independent in the image and not in the palette, so RGB may leave [0, 1].
        """
        rgb = self.axes @ images.flatten(2) + self.mean[..., None]
        return rgb.view_as(images)


def random_colours(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return the pixels ``[B, size², 3]`` of random mosaics, in RGB within [0, 1].

    Each mosaic has 3 to 22 random colours in random proportions, laid row by row, is blurred over 1 to 10
    rows, and has a little noise added.
    """
    device, pixels = generator.device, size**2
    numbers = torch.randint(3, MOST_COLOURS + 1, (count, 1), generator=generator, device=device)
    colours = uniform(generator, count, MOST_COLOURS, 3)
    shares = uniform(generator, count, MOST_COLOURS)
    shares = shares * (torch.arange(MOST_COLOURS, device=device) < numbers)
    bounds = shares.cumsum(1) / shares.sum(1, keepdim=True)  # where each colour ends, in [0, 1]
    places = ((torch.arange(pixels, device=device) + 0.5) / pixels).repeat(count, 1)
    chosen = torch.searchsorted(bounds, places).clamp_max(MOST_COLOURS - 1)  # [B, n]
    mosaic = colours.gather(1, chosen[..., None].expand(-1, -1, 3))

    # A colour fills whole rows, so it blurs along the sequence of pixels: a mean of neighbours, by sums.
    sums = torch.cat([torch.zeros(count, 1, 3, device=device), mosaic.cumsum(1)], dim=1)
    width = 1 + size * torch.randint(0, WIDEST_BLUR, (count, 1), generator=generator, device=device)
    index = torch.arange(pixels, device=device)
    start = (index - width // 2).clamp_min(0)
    stop = (index - width // 2 + width).clamp_max(pixels)
    window = sums.gather(1, stop[..., None].expand(-1, -1, 3)) - sums.gather(
        1, start[..., None].expand(-1, -1, 3)
    )
    blurred = window / (stop - start)[..., None]

    noise = uniform(generator, count, pixels, 3)
    return torch.lerp(blurred, noise, NOISE)
