"""Untrained StyleGANs: what a generator draws before it has seen any picture, one network per image.

The network is StyleGAN2's (Karras et al., arXiv 1912.04958) made small; the four ways to initialise it are
those of Baradad et al. (arXiv 2106.05963, section 3), who found the oriented one to teach the best features.
Every image has weights of its own; the networks of a batch run side by side as groups of one convolution.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.priors.processes.filters import oriented_filters, wavelet_filters
from dpvision.priors.processes.noise import normal, power_law_noise, uniform

CHANNELS = 24
FIRST_SIDE = 4
STYLE_STD = 0.72  # the root mean square of LeakyReLU(N(0, 1)) with slope 0.2

# Of each colour channel's mean and standard deviation over an image: their normal distributions, as (mean,
# standard deviation), over photographs. Published with the paper.
CHANNEL_MEAN = ((0.483, 0.145), (0.455, 0.142), (0.401, 0.161))
CHANNEL_STD = ((0.219, 0.063), (0.213, 0.062), (0.213, 0.069))

Convolve = Callable[[Tensor, torch.Generator], Tensor]
"""A function that draws a 3×3 convolution for every image and applies it: ``[N, CHANNELS, H, W]``."""

DrawNoise = Callable[[int, list[int], torch.Generator], list[Tensor]]
"""A function (count, sides, generator) -> a map per layer and image, as wide as the layer:
``[count, side, side]``.
"""


def random(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw images with normal weights, no biases, no noise: plain initialisation; as :data:`Generate`."""
    return _synthesize(count, size, generator, convolve_normal)


def high_frequency(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw images by random sums of wavelets as filters, with 1/f^α noise in every layer; as
    :data:`Generate`.
    """
    return _synthesize(count, size, generator, convolve_wavelets, power_law_maps)


def sparse(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw images as :func:`high_frequency` does, but with details that are few and far between.

    The first input is 0 and every layer's noise is confined to a place of its own; as :data:`Generate`.
    """
    return _synthesize(count, size, generator, convolve_wavelets, sparse_maps, input_std=0.0)


def oriented(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw images by edges and lines as filters, biases, and one noise map for all layers; as
    :data:`Generate`.
    """
    return _synthesize(count, size, generator, convolve_oriented, shared_map, largest_bias=0.2)


def convolve_normal(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw all weights from the normal distribution."""
    count = len(x)
    kernels = _modulated(normal(generator, count, CHANNELS, CHANNELS, 9), generator)
    return grouped_convolution(x, kernels.view(count * CHANNELS, CHANNELS, 3, 3))


def convolve_wavelets(x: Tensor, generator: torch.Generator) -> Tensor:
    """Filter every input channel by a sum of wavelets with normal coefficients, then mix channels."""
    wavelets = wavelet_filters(generator.device)
    filters = torch.einsum("ncf,fyx->ncyx", normal(generator, len(x), CHANNELS, len(wavelets)), wavelets)
    return filtered_and_mixed(x, filters, generator)


def convolve_oriented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Filter every input channel by one of the bank's filters, then mix channels.

    Each image has a random 5 to 40 of the bank's 40 filters to choose from.
    """
    return filtered_and_mixed(x, draw_oriented_filters(len(x), generator), generator)


def draw_oriented_filters(count: int, generator: torch.Generator) -> Tensor:
    """Draw for every channel one of an image's random subset of the bank: ``[count, CHANNELS, 3, 3]``."""
    bank = oriented_filters(generator.device)
    order = uniform(generator, count, len(bank)).argsort(dim=1)  # its first few are the subset
    sizes = torch.randint(5, len(bank) + 1, (count, 1), generator=generator, device=generator.device)
    place = (uniform(generator, count, CHANNELS) * sizes).long()
    return bank[order.gather(1, place)]


def power_law_maps(count: int, sides: list[int], generator: torch.Generator) -> list[Tensor]:
    """Draw for every layer a map of its own with amplitude spectrum 1/f^α, α uniform in [0.5, 1.5]."""
    return [power_law_noise(0.5 + uniform(generator, count), side, generator) for side in sides]


def sparse_maps(count: int, sides: list[int], generator: torch.Generator) -> list[Tensor]:
    """Return the same under Laplacian envelopes e^(-|p - c| / b), b uniform in [0.05, 0.3] of the side."""
    maps = []
    for noise in power_law_maps(count, sides, generator):
        centre, width = uniform(generator, count, 2, 1), 0.05 + 0.25 * uniform(generator, count, 1, 1)
        pixel = (torch.arange(noise.shape[-1], device=noise.device) + 0.5) / noise.shape[-1]
        y, x = (-(pixel - centre).abs() / width).exp().unbind(dim=1)  # [count, side] each
        maps.append(noise * y[:, :, None] * x[:, None, :])
    return maps


def shared_map(count: int, sides: list[int], generator: torch.Generator) -> list[Tensor]:
    """Draw one map for all layers, averaged over blocks for the smaller ones: their details coincide."""
    noise = power_law_noise(0.5 + uniform(generator, count), sides[-1], generator)
    return [F.avg_pool2d(noise, sides[-1] // side) for side in sides]


def _synthesize(
    count: int,
    size: int,
    generator: torch.Generator,
    convolve: Convolve,
    draw_noise: DrawNoise | None = None,
    *,
    input_std: float = 1.0,
    largest_bias: float = 0.0,
) -> Tensor:
    """Run a new network for every image, then give its colours random means and standard deviations.

    Biases are uniform in ±largest_bias; the strength of a layer's noise is uniform in [0, 0.3].
    """
    sides = [FIRST_SIDE]
    while sides[-1] < size:
        sides += 2 * [2 * sides[-1]]
    noise = draw_noise(count, sides, generator) if draw_noise else []

    x = input_std * normal(generator, count, CHANNELS, FIRST_SIDE, FIRST_SIDE)
    rgb = x.new_zeros(count, 3, FIRST_SIDE // 2, FIRST_SIDE // 2)
    for layer, side in enumerate(sides):
        if side > x.shape[-1]:
            x = _doubled(x)
        x = convolve(x, generator)
        if noise:
            x += 0.3 * uniform(generator, count, 1, 1, 1) * noise[layer][:, None]
        if largest_bias:
            x += largest_bias * (2 * uniform(generator, count, CHANNELS, 1, 1) - 1)
        x = _normalized(x.relu_())
        if layer % 2 == 0:  # the last layer of its side
            to_rgb = normal(generator, count, 3, CHANNELS) * CHANNELS**-0.5
            rgb = _doubled(rgb) + (to_rgb @ x.flatten(2)).unflatten(2, (side, side))
    return coloured(rgb[..., :size, :size], generator)


def filtered_and_mixed(x: Tensor, filters: Tensor, generator: torch.Generator) -> Tensor:
    """Convolve with kernels mixing[o, i] · filters[i], in two cheap steps; the mixing is normal."""
    filtered = grouped_convolution(x, filters.reshape(-1, 1, 3, 3))
    mixing = _modulated(normal(generator, len(x), CHANNELS, CHANNELS, 1), generator)[..., 0]
    return (mixing @ filtered.flatten(2)).view(x.shape)


def _modulated(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return weights ``[N, out, in, taps]`` in a random style, a factor per input, and of norm 1 per output.

    The factors are what StyleGAN makes of its latent: an affine image of LeakyReLU(N(0, I)). As the affine
    map, too, is new for every image, they are normal about 1, and drawn so.
    """
    styles = 1 + STYLE_STD * normal(generator, len(weights), 1, CHANNELS, 1)
    weights = weights * styles
    return weights / weights.flatten(2).norm(dim=2)[:, :, None, None]


def grouped_convolution(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve ``[N, C, H, W]``, each image with its C of the kernels ``[N·C, in, 3, 3]``; keeps
    the shape.
    """
    count, channels, height, width = x.shape
    # Reflected at the borders, as zeros would put a frame around every picture.
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect").view(1, count * channels, height + 2, width + 2)
    return F.conv2d(padded, kernels, groups=count * channels // kernels.shape[1]).view(x.shape)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear")


def _normalized(x: Tensor) -> Tensor:
    """Scale every image of ``[N, C, H, W]`` to root mean square 1, in place.

    Filters of mean 0 leave little of a smooth input; the small layers' blobs would drown all details.
    """
    norm = x.flatten(1).norm(dim=1).clamp_min(1e-6)
    return x.mul_((x[0].numel() ** 0.5 / norm)[:, None, None, None])


def coloured(images: Tensor, generator: torch.Generator) -> Tensor:
    """Give every channel the mean and deviation of a random photograph's, clipped to [0, 1]."""
    mean_of_mean, std_of_mean = torch.tensor(CHANNEL_MEAN, device=images.device).unbind(dim=1)
    mean_of_std, std_of_std = torch.tensor(CHANNEL_STD, device=images.device).unbind(dim=1)
    mean = mean_of_mean + std_of_mean * normal(generator, len(images), 3)
    std = mean_of_std + std_of_std * normal(generator, len(images), 3)
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    scaled = centred / centred.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-6)
    return (mean[..., None, None] + std[..., None, None] * scaled).clamp(0, 1)
