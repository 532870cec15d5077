from __future__ import annotations

import numpy as np
import pytest
import torch

from dpvision.priors.processes.noise import power_law_noise


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_the_amplitude_spectrum_has_the_slope(exponent: float) -> None:
    noise = power_law_noise(torch.full((200,), exponent), 32, torch.Generator().manual_seed(0))
    assert noise.shape == (200, 32, 32)
    power = np.abs(np.fft.fft2(noise.double().numpy())).__pow__(2).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32))
    inside = (frequency > 0) & (frequency < 0.5)
    slope, _ = np.polyfit(np.log(frequency[inside]), np.log(power[inside]) / 2, 1)
    assert slope == pytest.approx(-exponent, abs=0.03)


def test_every_map_has_its_own_exponent_and_unit_variance() -> None:
    noise = power_law_noise(torch.tensor([0.0, 1.5]), 32, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise.mean(dim=(1, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(noise.var(dim=(1, 2), correction=0), torch.ones(2))
    steps = noise.diff(dim=2).square().mean(dim=(1, 2))
    assert steps[0] > 5 * steps[1]
