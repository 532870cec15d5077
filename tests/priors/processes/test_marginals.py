from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from dpvision.priors.processes.marginals import (
    WaveletMarginals,
    argsort,
    generalized_laplacian_quantiles,
    match_marginals,
)


@pytest.mark.parametrize("count", [256, 4096])
@pytest.mark.parametrize("limit", [50.0, 3.125])
def test_quantiles_follow_the_generalized_laplacian(count: int, limit: float) -> None:
    exponents = [0.4, 0.4567, 0.61, 0.8]
    quantiles = generalized_laplacian_quantiles(torch.tensor(exponents), count, limit)
    for r, values in zip(exponents, quantiles.double().numpy(), strict=True):
        law = stats.gennorm(r)
        expected = (np.arange(count) + 0.5) / count
        found = (law.cdf(values) - law.cdf(-limit)) / (law.cdf(limit) - law.cdf(-limit))
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_matching_keeps_ranks_and_gives_the_histogram() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 3, 100, generator=generator)
    targets = torch.rand(5, 3, 100, generator=generator).sort(-1).values
    matched = match_marginals(values, targets)
    assert torch.equal(matched.sort(-1).values, targets)
    assert torch.equal(matched.argsort(-1), values.argsort(-1))


def test_argsort_of_any_magnitude_and_sign() -> None:
    exponents = torch.linspace(-44, 38, 500, dtype=torch.float64)
    values = (10**exponents).float()
    values = torch.cat([values, -values, torch.tensor([0.0, torch.finfo(torch.float32).max])]).unique()
    shuffled = torch.randperm(len(values), generator=torch.Generator().manual_seed(0))
    assert torch.equal(values[shuffled][argsort(values[shuffled])], values)


def test_imposed_bands_have_their_laws() -> None:
    generator = torch.Generator().manual_seed(0)
    marginals = WaveletMarginals.draw(6, 64, generator)
    noise = torch.randn(6, 3, 64, 64, generator=generator)
    images = noise
    for _ in range(10):
        images = marginals.impose(images)
    distances, noise_distances, kurtosis = [], [], []
    *noise_bands, _ = marginals.pyramid.bands(noise)
    *bands, _ = marginals.pyramid.bands(images)
    for before, after, target in zip(noise_bands, bands, marginals.targets, strict=True):
        before, after, law = (rows.reshape(-1, target.shape[-1]).numpy() for rows in (before, after, target))
        before *= law.std() / before.std()
        distances.append(mean_ks_distance(after, law))
        noise_distances.append(mean_ks_distance(before, law))
        kurtosis.append(np.median(stats.kurtosis(after, axis=1)))
        assert np.corrcoef(np.log(after.std(1)), np.log(law.std(1)))[0, 1] > 0.9
    assert max(distances) < 0.06
    assert min(noise_distances[:3]) > 0.08
    # Excess over the Gaussian's; the bound on the coefficients cuts the tails of the coarsest scale off.
    assert kurtosis[0] > 5
    assert kurtosis[1] > 3
    assert kurtosis[2] > 0.8


def mean_ks_distance(samples: np.ndarray, laws: np.ndarray) -> float:
    pairs = zip(samples, laws, strict=True)
    return float(np.mean([stats.ks_2samp(sample, law).statistic for sample, law in pairs]))


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_widths_grow_fourfold_with_the_scale(level: int) -> None:
    targets = WaveletMarginals.draw(200, 16, torch.Generator().manual_seed(0)).targets[level]
    scale = max(level, 1)  # the high-pass residual has the width of the finest scale
    count = targets.shape[-1]
    expected = np.mean(
        [
            np.abs(truncated_laplacian_quantiles(r, count, 200 / 4**scale)).mean() * 4**scale / 255
            for r in np.linspace(0.4, 0.8, 21)
        ]
    )
    assert targets.abs().mean().item() == pytest.approx(expected, rel=0.05)


def truncated_laplacian_quantiles(r: float, count: int, limit: float) -> np.ndarray:
    law = stats.gennorm(r)
    low, high = law.cdf([-limit, limit])
    return law.ppf(low + (high - low) * (np.arange(count) + 0.5) / count)
