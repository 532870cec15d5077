"""Statistical image models: noise given spectra, wavelet marginals and colours like those of photographs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.priors.processes.colour import Palette
from dpvision.priors.processes.marginals import WaveletMarginals
from dpvision.priors.processes.noise import normal, uniform

ROUNDS = 10
BLOCK = 8  # pixels: the coarsest sampling step of the wavelets


def statistical(
    count: int, size: int, generator: torch.Generator, *, spectrum: bool, wavelets: bool, colour: bool
) -> Tensor:
    """Draw images of the four statistical models of Baradad et al. (NeurIPS 2021, arXiv 2106.05963).

    Uniform noise is given, in turn and ten times over, a random spectrum, random wavelet marginals and a
    random palette, whichever are asked for: each undoes a little of the one before. Then each image is
    stretched to the full range.

    Args:
        count: number of images B.
        size: their side in pixels.
        generator: the only source of randomness; its device is where the images are made.
        spectrum: magnitudes as in :class:`Spectrum`.
        wavelets: marginals as in :class:`~dpvision.priors.processes.marginals.WaveletMarginals`.
        colour: colours as in :class:`~dpvision.priors.processes.colour.Palette`.

    Returns:
        float32 ``[B, 3, size, size]`` that spans [0, 1].
    """
    side = -(-size // BLOCK) * BLOCK
    images = uniform(generator, count, 3, side, side)
    steps: list[Callable[[Tensor], Tensor]] = []
    if spectrum:
        steps.append(Spectrum.draw(count, side, generator).impose)
    if wavelets:
        steps.append(WaveletMarginals.draw(count, side, generator).impose)
    if colour:
        palette = Palette.draw(count, side, generator)
        steps.append(palette.impose)
    # A spectrum alone holds after one round: nothing disturbs it.
    for _ in range(ROUNDS if wavelets or colour else 1):
        for impose in steps:
            images = impose(images)
    if colour:
        images = palette.to_rgb(images)
    return _stretched(images[..., :size, :size])


@dataclass(frozen=True)
class Spectrum:
    """Magnitudes ∝ 1 / (|fx|**(s + d) + |fy|**(s − d)), frequencies in cycles per pixel; one draw per image.

    The slope s is uniform in [0.5, 3.5], and d is normal with standard deviation 0.05.
    """

    magnitudes: Tensor  # [B, 1, N, N/2 + 1], in the layout of rfft2, of an image of unit variance

    @classmethod
    def draw(cls, count: int, size: int, generator: torch.Generator) -> Spectrum:
        device = generator.device
        slope = 0.5 + 3 * uniform(generator, count, 1, 1, 1)
        difference = 0.05 * normal(generator, count, 1, 1, 1)
        fx = torch.fft.rfftfreq(size, device=device)
        fy = torch.fft.fftfreq(size, device=device)[:, None].abs()
        magnitudes = 1 / (fx ** (slope + difference) + fy ** (slope - difference))
        magnitudes[..., 0, 0] = 0  # infinite so far; the mean stays the image's own
        # Whatever the phases, the variance is that of this image, by Parseval's theorem.
        unit = torch.fft.irfft2(magnitudes).square().mean((2, 3), keepdim=True).sqrt()
        return cls(magnitudes / unit)

    def impose(self, images: Tensor) -> Tensor:
        """Return images ``[B, C, N, N]`` with these magnitudes, and the old phases, means and variances."""
        std, mean = torch.std_mean(images, dim=(2, 3), keepdim=True, correction=0)
        frequencies = torch.fft.rfft2(images)
        gains = self.magnitudes / frequencies.abs().clamp_min(1e-30)
        return torch.fft.irfft2(frequencies * gains) * std + mean


def _stretched(images: Tensor) -> Tensor:
    lowest, highest = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - lowest) / (highest - lowest)
