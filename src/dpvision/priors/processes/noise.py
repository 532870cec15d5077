"""The random numbers that several processes are made from, drawn on the generator's device."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw numbers uniform in [0, 1)."""
    return torch.rand(shape, generator=generator, device=generator.device)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=generator, device=generator.device)


def power_law_noise(exponent: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw Gaussian noise whose amplitude spectrum falls as 1 / f^exponent; it wraps around at the borders.

    Args:
        exponent: one per map, ``[N]``. 0 is white noise; photographs have about 1.
        size: side in pixels.

    Returns:
        ``[N, size, size]``, each map with mean 0 and variance 1.
    """
    device = generator.device
    frequency = torch.hypot(
        torch.fft.fftfreq(size, device=device)[:, None], torch.fft.rfftfreq(size, device=device)
    )
    amplitude = frequency ** -exponent[:, None, None]
    amplitude[:, 0, 0] = 0  # no constant part
    white = normal(generator, len(exponent), size, size)
    noise = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=(size, size))
    return noise / noise.std(dim=(1, 2), correction=0, keepdim=True)
