"""A small network that takes the noise from images of a class, and draws images by doing so step by step.

Images are preconditioned as by Karras et al. (arXiv 2206.00364, section 5), so that the network sees and
gives numbers of about unit size at every noise level. It has GroupNorm and no other norm: what it does with
an image depends on no other, and every example has a gradient of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks.normal_law import SPREAD, NormalLaw
from dpvision.privacy.errors import InputError

FREQUENCIES = 6
EMBEDDED = 64
GROUP = 8
"""Channels that are normalised together."""

WIDEST = 512
PATCHES = (1, 2, 4, 8)

SMALLEST_INSIDE = 7
"""Sides at which nothing is halved any more."""


class ConditionedBlock(nn.Module):
    """``[N, in, S, S], [N, EMBEDDED] -> [N, out, S, S]``: two convolutions beside a shortcut; between them
    channels are scaled and shifted by the condition.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(in_channels // GROUP, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.condition = nn.Linear(EMBEDDED, 2 * out_channels)
        self.norm2 = nn.GroupNorm(out_channels // GROUP, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = self.condition(embedded)[:, :, None, None].chunk(2, dim=1)
        out = self.conv1(F.silu(self.norm1(x)))
        out = self.norm2(out) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(F.silu(out))


class Denoiser(nn.Module):
    """A U-Net on patches of an image, its noise level and its class, which adds to the guess of a normal law.

    Images are less the centre of their class, a public image. The network sees such an image, and whole what
    the law of its class guesses that it is without noise; it is asked for the rest, in units of how wrong the
    law is at this noise. So one that says nothing is as good as the law. Its input is what :func:`packed`
    makes of an image, its noise level and its class, so that a view is one tensor. A class is a one-hot row,
    or zeros where it is not known, whose centre is 0. Its output is what :class:`Preconditioning` says.

    Args:
        image_shape: (C, H, W); a square whose side is a multiple of ``patch``.
        num_classes: how many classes there are; 0 for none.
        width: channels at the highest resolution, a multiple of 8; twice as many at the lower ones.
        patch: the side of the squares of pixels that become one position.
        rank: the number of directions of the :class:`NormalLaw` of a class.

    Attributes:
        centres: buffer ``[max(1, num_classes), C, H, W]``, from −1 to 1; at first 0.
        law: the laws of the classes about these; at first the same of all.

    Raises:
        InputError: there is no such network.
    """

    frequencies: Tensor
    centres: Tensor

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, width: int, patch: int, rank: int
    ) -> None:
        super().__init__()
        channels, side, width_of_image = image_shape
        if side != width_of_image:
            raise InputError(f"a denoiser takes squares, not {width_of_image}×{side} pixels")
        if patch not in PATCHES or side % patch or side // patch < SMALLEST_INSIDE:
            raise InputError(
                f"patch must be one of {', '.join(map(str, PATCHES))}, divide the side of {side} pixels and "
                f"leave at least {SMALLEST_INSIDE}, not {patch!r}"
            )
        if width not in range(GROUP, WIDEST + 1, GROUP):
            raise InputError(f"width must be a multiple of {GROUP} up to {WIDEST}, not {width!r}")
        num_pixels = channels * side**2
        if rank not in range(num_pixels + 1):
            raise InputError(f"rank must be a number from 0 to {num_pixels}, that of pixels, not {rank!r}")
        self.image_shape, self.num_classes, self.patch = tuple(image_shape), num_classes, patch
        inside, depth = side // patch, 1
        while inside % 2 == 0 and inside > SMALLEST_INSIDE:
            inside, depth = inside // 2, depth + 1
        widths = [width] + [2 * width] * (depth - 1)
        frequencies = math.pi * 2.0 ** torch.arange(FREQUENCIES).sub(2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("centres", torch.zeros(max(1, num_classes), *image_shape))
        self.law = NormalLaw(max(1, num_classes), num_pixels, rank)
        self.of_level = nn.Linear(2 * FREQUENCIES, EMBEDDED)
        self.of_class = nn.Linear(max(1, num_classes), EMBEDDED, bias=False)
        self.embed = nn.Linear(EMBEDDED, EMBEDDED)
        self.first = nn.Conv2d(2 * channels * patch**2, width, 3, padding=1)
        self.down = nn.ModuleList(ConditionedBlock(w, w) for w in widths)
        self.halve = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(ConditionedBlock(a + b, a) for a, b in pairwise(widths))
        self.middle = ConditionedBlock(widths[-1], widths[-1])
        self.norm = nn.GroupNorm(width // GROUP, width)
        self.last = nn.Conv2d(width, channels * patch**2, 3, padding=1)
        for weight in self.last.parameters():
            nn.init.zeros_(weight)

    def forward(self, views: Tensor) -> Tensor:
        x, level, classes = unpacked(views, self.image_shape[0], self.num_classes)
        sigma = (4 * level).exp()
        how = preconditioning(sigma[:, :, None, None])
        noisy = x / how.scale
        guess, wrong = self.law.denoised(noisy, sigma, classes)
        waves = level * self.frequencies
        embedded = self.of_level(torch.cat([waves.sin(), waves.cos()], dim=1)) + self.of_class(classes)
        embedded = F.silu(self.embed(F.silu(embedded)))
        x = torch.cat([x, guess + centres_of(self.centres, classes)], dim=1)
        x = self.first(F.pixel_unshuffle(x, self.patch))
        passed = []
        for number, block in enumerate(self.down):
            x = block(x, embedded)
            if number < len(self.halve):
                passed.append(x)
                x = self.halve[number](x)
        x = self.middle(x, embedded)
        for block in reversed(self.up):
            x = block(torch.cat([passed.pop(), F.interpolate(x, scale_factor=2)], dim=1), embedded)
        said = F.pixel_shuffle(self.last(F.silu(self.norm(x))), self.patch)
        return (guess - how.kept * noisy + wrong[:, :, None, None] * said) / how.added


def packed(x: Tensor, level: Tensor, classes: Tensor) -> Tensor:
    """Return ``[N, C + n, H, W]``: images ``[N, C, H, W]``, and behind them their levels ``[N, 1]`` and
    classes ``[N, max(1, num_classes)]`` as the first numbers of as many further planes as these fill.
    """
    height, width = x.shape[2:]
    facts = torch.cat([level, classes], dim=1)
    filled = F.pad(facts, (0, -facts.shape[1] % (height * width)))
    planes = filled.shape[1] // (height * width)
    return torch.cat([x, filled.unflatten(1, (planes, height, width))], dim=1)


def unpacked(views: Tensor, channels: int, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the images of so many channels, the levels and the classes that :func:`packed` took."""
    facts = views[:, channels:].flatten(1)[:, : 1 + max(1, num_classes)]
    return views[:, :channels], facts[:, :1], facts[:, 1:]


def centres_of(centres: Tensor, classes: Tensor) -> Tensor:
    """Return the centres ``[N, C, H, W]`` of one-hot classes ``[N, classes]``: exact, however products of
    matrices are rounded, for all terms of a sum but one are 0.
    """
    with torch.autocast(classes.device.type, enabled=False):
        return (classes @ centres.flatten(1)).unflatten(1, centres.shape[1:])


@dataclass(frozen=True)
class Preconditioning:
    """What relates noisy images x = x0 + σ·n, where x0 is an image less its centre, to what a
    :class:`Denoiser` takes and gives: it sees ``scale``·x at ``level``, and its output F says that x0 is
    ``kept``·x + ``added``·F.
    """

    level: Tensor
    scale: Tensor
    kept: Tensor
    added: Tensor


def preconditioning(sigma: Tensor) -> Preconditioning:
    """Return that of noise of standard deviation ``sigma``, of any shape, for pixels from −1 to 1."""
    whole = sigma.square() + SPREAD**2
    return Preconditioning(
        level=sigma.log() / 4,
        scale=whole.rsqrt(),
        kept=SPREAD**2 / whole,
        added=sigma * SPREAD * whole.rsqrt(),
    )


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Compute the loss of a denoiser, ``[N]``: the mean over pixels of the squared error of its output, whose
    target is of unit size at every noise level.
    """
    return (output - target).square().flatten(1).mean(dim=1)
