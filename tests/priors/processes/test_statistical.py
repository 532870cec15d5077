from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dpvision.priors.processes.colour import Palette
from dpvision.priors.processes.marginals import WaveletMarginals
from dpvision.priors.processes.statistical import Spectrum, statistical
from dpvision.priors.processes.wavelets import SteerablePyramid

MODELS = {
    "spectrum": {"spectrum": True, "wavelets": False, "colour": False},
    "wmm": {"spectrum": False, "wavelets": True, "colour": False},
    "spectrum-colour": {"spectrum": True, "wavelets": False, "colour": True},
    "spectrum-colour-wmm": {"spectrum": True, "wavelets": True, "colour": True},
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_images_are_reproducible_and_span_the_range(model: dict[str, Any]) -> None:
    images = statistical(3, 32, generator(), **model)
    assert images.dtype == torch.float32
    assert images.shape == (3, 3, 32, 32)
    assert images.isfinite().all()
    assert (images.amin((1, 2, 3)) == 0).all()
    assert (images.amax((1, 2, 3)) == 1).all()
    assert torch.equal(images, statistical(3, 32, generator(), **model))
    assert not torch.equal(images, statistical(3, 32, generator(1), **model))
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("size", [16, 28, 33])
def test_any_size(model: dict[str, Any], size: int) -> None:
    images = statistical(2, size, generator(), **model)
    assert images.shape == (2, 3, size, size)
    assert images.isfinite().all()


def axis_slopes(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Exponents of the fall of magnitude along the two frequency axes, ``[B]`` each."""
    size = images.shape[-1]
    frequencies = np.log(np.arange(1, size // 2))
    magnitudes = torch.fft.fft2(images.double()).abs().mean(1).log().numpy()[:, : size // 2, : size // 2]
    along_x = np.polyfit(frequencies, magnitudes[:, 0, 1:].T, 1)[0]
    along_y = np.polyfit(frequencies, magnitudes[:, 1:, 0].T, 1)[0]
    return -along_x, -along_y


def test_slopes_of_the_spectrum_follow_their_law() -> None:
    slope_x, slope_y = axis_slopes(statistical(1000, 32, generator(), **MODELS["spectrum"]))
    mean_slope, half_difference = (slope_x + slope_y) / 2, (slope_x - slope_y) / 2
    assert stats.kstest(mean_slope, "uniform", args=(0.5, 3)).pvalue > 0.01
    assert stats.kstest(half_difference, "norm", args=(0, 0.05)).pvalue > 0.01
    assert half_difference.std() == pytest.approx(0.05, rel=0.07)


def test_spectrum_off_the_axes_keeps_phases_means_and_variances() -> None:
    spectrum = Spectrum.draw(2, 16, generator())
    images = torch.rand(2, 3, 16, 16, generator=generator(1))
    imposed = spectrum.impose(images)
    torch.testing.assert_close(imposed.mean((2, 3)), images.mean((2, 3)))
    torch.testing.assert_close(imposed.var((2, 3)), images.var((2, 3)))
    before, after = torch.fft.rfft2(images), torch.fft.rfft2(imposed)
    torch.testing.assert_close(after / after.abs(), before / before.abs(), rtol=0, atol=1e-3)
    # 1 / magnitude is a sum of one function of fx and one of fy, so mixed differences vanish.
    inverse = 1 / after.abs()[..., 1:8, 1:8]
    mixed = inverse.diff(dim=-1).diff(dim=-2)
    assert mixed.abs().max() < 1e-3 * inverse.max()


def test_wavelet_model_is_heavier_tailed_than_noise() -> None:
    images = statistical(8, 64, generator(), **MODELS["wmm"])
    flat = statistical(8, 64, generator(), spectrum=False, wavelets=False, colour=False)
    pyramid = SteerablePyramid(64, images.device)
    for level in (0, 1):
        kurtosis = [
            np.median(stats.kurtosis(pyramid.bands(x)[level].flatten(-2).numpy(), axis=-1))
            for x in (flat, images)
        ]
        assert kurtosis[0] < 0.2
        assert kurtosis[1] > 3


def test_the_palette_holds_at_the_end() -> None:
    """Along each principal axis of the palette the pixels have its marginal, but for the stretch."""
    for model in ("spectrum-colour", "spectrum-colour-wmm"):
        images = statistical(4, 32, generator(), **MODELS[model])
        palettes = replayed_palettes(4, 32, model)
        found = (images.flatten(2).mT @ palettes.axes).mT.sort(-1).values
        for rows, targets in zip(found, palettes.marginals, strict=True):
            scales = [
                np.polyfit(target, row, 1)[0]
                for row, target in zip(rows.numpy(), targets.numpy(), strict=True)
            ]
            assert np.ptp(scales) < 1e-3 * scales[0]  # one stretch for all three
            np.testing.assert_allclose(np.corrcoef(rows, targets).diagonal(3), 1, atol=1e-5)


def replayed_palettes(count: int, size: int, model: str) -> Palette:
    """The palettes that :func:`statistical` drew, from the same stream of random numbers."""
    stream = generator()
    torch.rand(count, 3, size, size, generator=stream)
    Spectrum.draw(count, size, stream)
    if model.endswith("wmm"):
        WaveletMarginals.draw(count, size, stream)
    return Palette.draw(count, size, stream)


def test_the_spectrum_survives_the_colours() -> None:
    alone = axis_slopes(statistical(100, 32, generator(), **MODELS["spectrum"]))[0]
    coloured = axis_slopes(statistical(100, 32, generator(), **MODELS["spectrum-colour"]))[0]
    assert np.corrcoef(alone, coloured)[0, 1] > 0.8
