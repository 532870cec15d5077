"""The wavelet scattering transform: features of images that nobody had to learn.

Bruna and Mallat, "Invariant scattering convolution networks", arXiv 1203.1513, section 2; as the prior of a
private classifier, Tramèr and Boneh, arXiv 2011.11660. Filters, padding and subsampling are those of kymatio
0.3.0 (whose π is 3.1415, so that features differ by 9e-5 of their size).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.privacy.errors import InputError

_PERIODS = 2
"""The copies that are added on every side to make filters periodic; more would add less than rounding."""

LARGEST_BANK = 2**24
"""Most numbers of all filters, roughly: some hundred MiB, for images of 724 pixels with the usual J and L."""

_CPU_PIECE, _GPU_PIECE = 2**19, 2**26
"""Most complex numbers of the widest intermediate result to hold at once: on a CPU, as many as its cache
keeps.
"""


class Scattering2d(nn.Module):
    """Local averages of an image and of the moduli of its wavelet transform, applied once and twice:
    ``x ∗ φ``, ``|x ∗ ψ| ∗ φ`` and ``||x ∗ ψ| ∗ ψ'| ∗ φ``, where ψ' is of a coarser scale than ψ.

    The wavelets ψ are Morlet wavelets of J scales, an octave apart, and L angles; φ is a Gaussian. Channels
    are transformed one by one, in float32 whatever autocast is on. The filters stay outside the state_dict.

    Args:
        image_size: (H, W) in pixels, both more than 2^J.
        J: number of scales; φ averages over about 2^J pixels and features lie on a grid of that spacing.
        L: number of angles in half a turn.

    ``forward`` maps ``[B, C, H, W]`` to ``[B, C·K, H // 2^J, W // 2^J]``, where K is ``paths`` (81).
    The paths of one channel are neighbours, in kymatio's order: the average; the first order scale by scale,
    each angle by angle; the second order, likewise for each path of the first.

    Raises:
        InputError: for no scale or angle, images too small for J or too large for so many filters, or
            (``forward``) of another size.
    """

    def __init__(self, image_size: tuple[int, int], J: int = 2, L: int = 8) -> None:  # noqa: N803 (as in papers)
        super().__init__()
        if J < 1 or L < 1:
            raise InputError(f"scattering needs at least one scale J and one angle L, not J={J} and L={L}")
        if J > 32:  # 2^J itself may be too large to be computed
            raise InputError(f"scattering with J={J} is for no image; choose a smaller J")
        if min(image_size) <= 2**J:
            raise InputError(
                f"scattering with J={J} needs images of more than {2**J}×{2**J} pixels, "
                f"not {image_size[0]}×{image_size[1]}; enlarge them with size, or choose a smaller J"
            )
        if L * J**2 * math.prod(image_size) > LARGEST_BANK:
            raise InputError(
                f"the filters of scattering with J={J} and L={L} are too many for images of "
                f"{image_size[0]}×{image_size[1]} pixels; make the images smaller"
            )
        self.image_size = tuple(image_size)
        self.paths = 1 + L * J + L * L * J * (J - 1) // 2
        # Reflected pixels up to whole steps of the output grid, at least half a step of them on every side;
        # LocalAverage leaves out the outermost steps.
        height, width = ((side // 2**J + 2) * 2**J for side in image_size)
        rows, columns = height - image_size[0], width - image_size[1]
        self.padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        self.widest = L * height * width * max(1, L // 4)

        with torch.device("cpu"):  # also for those who want no more than shapes of what is learned
            spectra = [morlet_spectra(height, width, j, L) for j in range(J)]
            self.first = nn.ModuleList(WaveletModulus(spectra[j], 0, j) for j in range(J))
            self.second = nn.ModuleDict(
                {f"{j}-{k}": WaveletModulus(spectra[k], j, k) for j in range(J) for k in range(j + 1, J)}
            )
            self.averages = nn.ModuleList(LocalAverage(height, width, level, J) for level in range(J))

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.image_size:
            raise InputError(
                f"this scattering takes images of {self.image_size[0]}×{self.image_size[1]} pixels, "
                f"not {x.shape[-2]}×{x.shape[-1]}; build another for them"
            )
        piece_size = _CPU_PIECE if x.device.type == "cpu" else _GPU_PIECE
        planes = x.flatten(0, 1)
        # A batch of any size, as it is traced for export, has no number of pieces.
        is_traced = isinstance(x.shape[0], torch.SymInt)
        pieces = [planes] if is_traced else planes.split(max(1, piece_size // self.widest))
        dtype = cast(LocalAverage, self.averages[0]).rows.dtype  # float32, or float64 after .double()
        with torch.autocast(x.device.type, enabled=False):
            features = torch.cat([self._scatter(piece.to(dtype)) for piece in pieces])
        return features.unflatten(0, x.shape[:2]).flatten(1, 2)

    def _scatter(self, x: Tensor) -> Tensor:
        """Scatter ``[n, H, W]``, channels of any images, to ``[n, K, H // 2^J, W // 2^J]``."""
        x = F.pad(x, self.padding, mode="reflect")
        scales = len(self.first)
        spectrum = torch.fft.fft2(x)
        first, second = [], []
        for j in range(scales):
            moduli = self.first[j](spectrum)  # [n, L, height / 2^j, width / 2^j]
            first.append(self.averages[j](moduli))
            if j + 1 < scales:
                spectra = torch.fft.fft2(moduli)
                averages = [
                    self.averages[k](self.second[f"{j}-{k}"](spectra))  # [n, L, L, H // 2^J, W // 2^J]
                    for k in range(j + 1, scales)
                ]
                second.append(torch.cat(averages, dim=2).flatten(1, 2))
        return torch.cat([self.averages[0](x).unsqueeze(1), *first, *second], dim=1)


class WaveletModulus(nn.Module):
    """``|x ∗ ψ|`` for the L wavelets ψ of one scale, from the spectrum of x.

    Args:
        spectra: the spectra of the wavelets, real, for pixels: ``[L, height, width]``.
        level: x is sampled every 2^level pixels.
        scale: the result is sampled every 2^scale pixels.

    ``forward`` maps the complex ``[..., height / 2^level, width / 2^level]`` to
    ``[..., L, height / 2^scale, width / 2^scale]``.
    """

    filters: Tensor

    def __init__(self, spectra: Tensor, level: int, scale: int) -> None:
        super().__init__()
        self.step = 2 ** (scale - level)
        spectra = _low_frequencies(_low_frequencies(spectra, level, dim=1), level, dim=2)
        # Each value twice, for the real and the imaginary part: a real product costs half of a complex one.
        filters = (spectra / self.step**2).repeat_interleave(2, dim=-1).float()
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, spectrum: Tensor) -> Tensor:
        interleaved = torch.view_as_real(spectrum).flatten(-2).unsqueeze(-3)
        # To keep every step-th sample is, in frequency, to add the step² blocks of the spectrum.
        blocks = zip(_blocks(interleaved, self.step), _blocks(self.filters, self.step), strict=True)
        product = torch.mul(*next(blocks))
        for block, filters in blocks:
            product.addcmul_(block, filters)
        response = torch.fft.ifft2(torch.view_as_complex(product.view(*product.shape[:-1], -1, 2)))
        # response.abs() takes three times as long. The constant keeps the gradient finite at zero.
        return torch.addcmul(response.real.square(), response.imag, response.imag).add(1e-12).sqrt()


class LocalAverage(nn.Module):
    """``u ∗ φ`` on the output grid, without the grid's first and last row and column.

    Args:
        height: the height of the padded image, in pixels.
        width: its width.
        level: u is sampled every 2^level pixels.
        scale: J. φ has a standard deviation of 0.8·2^(J−1) pixels; the result is sampled every 2^J.

    ``forward`` maps ``[..., height / 2^level, width / 2^level]`` to
    ``[..., height / 2^J − 2, width / 2^J − 2]``. A Gaussian is the product of one along the columns and one
    along the rows, so that two small matrices do it.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, height: int, width: int, level: int, scale: int) -> None:
        super().__init__()
        self.register_buffer("rows", _averaging_matrix(height, level, scale).float(), persistent=False)
        self.register_buffer("columns", _averaging_matrix(width, level, scale).float(), persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        return self.rows @ F.linear(u, self.columns)


def morlet_spectra(height: int, width: int, scale: int, angles: int) -> Tensor:
    """Return the Fourier transforms of one scale's Morlet wavelets: float64 ``[angles, height, width]``,
    real.

    With u along the wave and v along its crests, in pixels, a wavelet is
    ``s / 2πσ² · exp(−(u² + s²v²) / 2σ²) · (exp(iξu) − β)``, where σ = 0.8·2^scale, ξ = 3π/4 / 2^scale,
    s = 4 / angles, and β makes its sum zero. It is made periodic over height and width.
    """
    sigma, frequency, slant = 0.8 * 2**scale, 0.75 * math.pi / 2**scale, 4 / angles
    y, x = _periods(height)[:, None], _periods(width)
    spectra = []
    for index in range(angles):
        angle = (angles // 2 - 1 - index) * math.pi / angles
        u = y * math.cos(angle) + x * math.sin(angle)
        v = x * math.cos(angle) - y * math.sin(angle)
        envelope = torch.exp(-(u**2 + (slant * v) ** 2) / (2 * sigma**2)) * slant / (2 * math.pi * sigma**2)
        wave = torch.polar(envelope, frequency * u)
        wavelet = wave - wave.sum() / envelope.sum() * envelope
        periodic = wavelet.view(-1, height, wavelet.shape[1] // width, width).sum(dim=(0, 2))
        # A wavelet's real part is even and its imaginary part odd, so its spectrum is real.
        spectra.append(torch.fft.fft2(periodic).real)
    return torch.stack(spectra)


def _averaging_matrix(side: int, level: int, scale: int) -> Tensor:
    """Return Gaussian averages on one axis, subsampled: float64 ``[side / 2^scale − 2, side / 2^level]``."""
    sigma = 0.8 * 2 ** (scale - 1)
    gaussian = torch.exp(-(_periods(side) ** 2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma)
    spectrum = torch.fft.fft(gaussian.view(-1, side).sum(dim=0)).real
    kernel = torch.fft.ifft(_low_frequencies(spectrum, level, dim=0)).real
    centres = 2 ** (scale - level) * torch.arange(1, side // 2**scale - 1)
    return kernel[(centres[:, None] - torch.arange(len(kernel))) % len(kernel)]


def _periods(side: int) -> Tensor:
    return torch.arange(-_PERIODS * side, (_PERIODS + 1) * side, dtype=torch.float64)


def _low_frequencies(spectrum: Tensor, level: int, dim: int) -> Tensor:
    """Return the part of a filter's spectrum that a grid of every 2^level-th pixel can hold, on one axis."""
    half = spectrum.shape[dim] // 2**level // 2
    return torch.cat([spectrum.narrow(dim, 0, half), spectrum.narrow(dim, -half, half)], dim)


def _blocks(x: Tensor, step: int) -> Iterable[Tensor]:
    return (block for rows in x.chunk(step, dim=-2) for block in rows.chunk(step, dim=-1))
