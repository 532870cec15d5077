"""The steerable pyramid: images as oriented wavelet bands at several scales, and back again without loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class SteerablePyramid:
    """Simoncelli & Freeman's steerable pyramid (ICIP 1995), built and undone in the Fourier domain.

    The bands of an image are, from fine to coarse, one tensor per resolution:

    - ``[..., 1, N, N]``: the high-pass residual;
    - ``[..., orientations, N / 2**s, N / 2**s]`` for s = 0 … scales − 1: the oriented wavelets;
    - ``[..., 1, N / 2**scales, N / 2**scales]``: the low-pass residual.

    The squared filters sum to one at every frequency, so the same filters (conjugated) undo the pyramid.
    Images are taken to be periodic.

    Args:
        size: the side N of the images in pixels, a multiple of ``2 ** scales``.
        device: the device of the images.
        scales: octaves between the two residuals.
        orientations: bands of each scale; band k prefers gradients at angle kπ / orientations to the x axis.
    """

    def __init__(self, size: int, device: torch.device, scales: int = 3, orientations: int = 4) -> None:
        self.size = size
        radius, _ = _polar_frequencies(size, size, device)
        self.filters = [_high_pass(radius, math.pi)[None]]  # each [bands, n, n/2 + 1], in the layout of rfft2
        for scale in range(scales):
            radius, angle = _polar_frequencies(size >> scale, size, device)
            cutoff = (
                math.pi / 2**scale
            )  # the Nyquist frequency of this resolution: cropping to it loses nothing
            ring = _low_pass(radius, cutoff) * _high_pass(radius, cutoff / 2)
            self.filters.append(ring * _angular(angle, orientations))
        radius, _ = _polar_frequencies(size >> scales, size, device)
        self.filters.append(_low_pass(radius, math.pi / 2**scales)[None])

    def bands(self, images: Tensor) -> list[Tensor]:
        """Return the bands of images ``[..., N, N]``, one tensor ``[..., bands, n, n]`` per resolution."""
        spectrum = torch.fft.rfft2(images, norm="ortho")[..., None, :, :]
        return [
            torch.fft.irfft2(_crop(spectrum, filters) * filters, s=2 * (filters.shape[-2],), norm="ortho")
            for filters in self.filters
        ]

    def images(self, bands: Sequence[Tensor]) -> Tensor:
        """Return images ``[..., N, N]`` from their bands: the inverse of :meth:`bands`.

        For bands that no image has, the image whose bands are nearest to them (least squares).
        """
        shape = (*bands[0].shape[:-3], self.size, self.size // 2 + 1)
        spectrum = torch.zeros(shape, dtype=torch.complex64, device=bands[0].device)
        for band, filters in zip(bands, self.filters, strict=True):
            part = (torch.fft.rfft2(band, norm="ortho") * filters.conj()).sum(-3)
            rows, columns = part.shape[-2:]
            positive = (rows + 1) // 2  # rows of negative frequency come last
            spectrum[..., :positive, :columns] += part[..., :positive, :]
            spectrum[..., positive - rows :, :columns] += part[..., positive:, :]
        return torch.fft.irfft2(spectrum, s=(self.size, self.size), norm="ortho")


def _polar_frequencies(resolution: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return radius (radians per pixel) and angle of N × N images' lowest frequencies, ``[n, n/2 + 1]``."""
    scale = 2 * math.pi * resolution / size
    y = torch.fft.fftfreq(resolution, device=device)[:, None] * scale
    x = torch.fft.rfftfreq(resolution, device=device) * scale
    return torch.hypot(x, y), torch.atan2(y, x)


def _low_pass(radius: Tensor, cutoff: float) -> Tensor:
    """Compute 1 up to half the cutoff, 0 beyond it, half a cosine in the octave between."""
    return torch.cos(math.pi / 2 * (2 * radius / cutoff).log2().clamp(0, 1))


def _high_pass(radius: Tensor, cutoff: float) -> Tensor:
    """Compute the complement of `_low_pass`: squares of the two sum to one."""
    return torch.sin(math.pi / 2 * (2 * radius / cutoff).log2().clamp(0, 1))


def _angular(angle: Tensor, orientations: int) -> Tensor:
    """Compute ``cos(angle − kπ/K) ** (K − 1)``, squares summing to one over k: ``[K, n, n/2 + 1]``."""
    preferred = torch.arange(orientations, device=angle.device)[:, None, None] * (math.pi / orientations)
    order = orientations - 1
    lobes = torch.cos(angle - preferred) ** order
    # An odd function of frequency has to be imaginary for the band to be real.
    return (-1j) ** order * lobes / lobes.square().sum(0).sqrt()


def _crop(spectrum: Tensor, filters: Tensor) -> Tensor:
    """Return the lowest frequencies of a spectrum, as many as the filters have."""
    rows, columns = filters.shape[-2:]
    if rows == spectrum.shape[-2]:
        return spectrum
    positive = (rows + 1) // 2
    return torch.cat([spectrum[..., :positive, :columns], spectrum[..., positive - rows :, :columns]], dim=-2)
