from __future__ import annotations

import math

import pytest
import torch

from dpvision.priors.processes.wavelets import SteerablePyramid

CPU = torch.device("cpu")


@pytest.mark.parametrize(("size", "scales", "orientations"), [(64, 3, 4), (24, 3, 4), (16, 2, 3), (32, 4, 1)])
def test_pyramid_reconstructs_perfectly(size: int, scales: int, orientations: int) -> None:
    pyramid = SteerablePyramid(size, CPU, scales, orientations)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    bands = pyramid.bands(images)
    sides = [size, *(size >> scale for scale in range(scales)), size >> scales]
    numbers = [1, *[orientations] * scales, 1]
    assert [tuple(band.shape) for band in bands] == [
        (2, 3, number, side, side) for number, side in zip(numbers, sides, strict=True)
    ]
    torch.testing.assert_close(pyramid.images(bands), images)


def test_pyramid_keeps_the_energy_and_its_inverse_is_its_adjoint() -> None:
    generator = torch.Generator().manual_seed(0)
    pyramid = SteerablePyramid(32, CPU)
    image = torch.randn(32, 32, generator=generator)
    bands = pyramid.bands(image)
    torch.testing.assert_close(sum(band.square().sum() for band in bands), image.square().sum())
    others = [torch.randn(band.shape, generator=generator) for band in bands]
    torch.testing.assert_close(
        sum((band * other).sum() for band, other in zip(bands, others, strict=True)),
        (image * pyramid.images(others)).sum(),
    )


@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3])
def test_a_grating_appears_in_the_band_tuned_to_it(scale: int, orientation: int) -> None:
    size = 64
    # Whole cycles per image, at the centre of the scale's two octaves (π/4 … π for the finest).
    cycles = size / 4 / 2**scale
    angle = math.pi / 4 * orientation
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    wave = round(cycles * math.cos(angle)) * x + round(cycles * math.sin(angle)) * y
    bands = SteerablePyramid(size, CPU).bands(torch.cos(2 * math.pi / size * wave))
    energy = torch.stack([band.square().sum((-2, -1)) for band in bands[1:4]])  # [scales, orientations]
    assert divmod(int(energy.argmax()), 4) == (scale, orientation)
    # cos⁶ of 45° is 1/8; the opposite orientation sees nothing.
    relative = (energy[scale] / energy[scale, orientation]).roll(-orientation)
    torch.testing.assert_close(relative, torch.tensor([1, 1 / 8, 0, 1 / 8]))


def test_residuals_hold_the_corners_and_the_centre_of_the_spectrum() -> None:
    pyramid = SteerablePyramid(32, CPU)
    flat = torch.full((32, 32), 0.5)
    checkerboard = (torch.arange(32)[:, None] + torch.arange(32)) % 2 - 0.5
    for image, residual in ((flat, -1), (checkerboard, 0)):
        energies = torch.stack([band.square().sum() for band in pyramid.bands(image)])
        torch.testing.assert_close(energies[residual], energies.sum())
