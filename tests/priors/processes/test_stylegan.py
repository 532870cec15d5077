from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.priors.processes import stylegan
from dpvision.priors.processes.filters import oriented_filters, wavelet_filters


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def share_of_high_frequencies(images: Tensor) -> float:
    """The mean share of an image's variance above a quarter of the sampling frequency."""
    power = torch.fft.fft2(images - images.mean(dim=(2, 3), keepdim=True)).abs() ** 2
    frequency = torch.fft.fftfreq(images.shape[-1])
    high = torch.hypot(frequency[:, None], frequency) > 0.25
    return float((power[..., high].sum(dim=(1, 2)) / power.sum(dim=(1, 2, 3))).mean())


def share_of_busiest_quarter(images: Tensor) -> float:
    """The mean share of the squared differences of neighbours in the busiest quarter of an image."""
    busy = images.diff(dim=2)[..., 1:].square() + images.diff(dim=3)[..., 1:, :].square()
    busy = F.avg_pool2d(busy.sum(dim=1), 3).flatten(1).sort(dim=1, descending=True).values
    return float((busy[:, : busy.shape[1] // 4].sum(dim=1) / busy.sum(dim=1)).mean())


def test_the_oriented_bank() -> None:
    bank = oriented_filters()
    assert bank.shape == (40, 3, 3)
    torch.testing.assert_close(bank.sum(dim=(1, 2)), torch.zeros(40), atol=1e-6, rtol=0)
    torch.testing.assert_close(bank.flatten(1).norm(dim=1), torch.ones(40))
    torch.testing.assert_close(bank[20:], -bank[:20])
    likeness = bank.flatten(1) @ bank.flatten(1).T - torch.eye(40)
    assert likeness.max() < 0.999, "two filters are the same"


def test_edges_and_lines_have_their_orientations() -> None:
    bank = oriented_filters()
    y, x = torch.meshgrid(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0), indexing="ij")
    edges, lines, differences = bank[:8], bank[8:16], bank[16:20]
    angles = torch.atan2((edges * y).sum(dim=(1, 2)), (edges * x).sum(dim=(1, 2)))
    torch.testing.assert_close(angles, torch.arange(8) * torch.pi / 8)
    torch.testing.assert_close(edges.flip(1, 2), -edges)
    torch.testing.assert_close(lines.flip(1, 2), lines)
    # A line is darkest across, as is a wave with cos 2θ of x² - y² and sin 2θ of xy.
    cos_part, sin_part = -(lines * (x**2 - y**2)).sum(dim=(1, 2)), -(lines * x * y / 2).sum(dim=(1, 2))
    twice = torch.atan2(sin_part, cos_part).add(1e-4) % (2 * torch.pi)
    torch.testing.assert_close(twice, torch.arange(8) * torch.pi / 4 + 1e-4, atol=1e-5, rtol=0)
    assert ((differences.abs() > 1e-6).sum(dim=(1, 2)) == 2).all()


def test_wavelets_are_orthonormal() -> None:
    wavelets = wavelet_filters().flatten(1)
    torch.testing.assert_close(wavelets @ wavelets.T, torch.eye(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(wavelets.sum(dim=1), torch.zeros(8), atol=1e-6, rtol=0)


def test_filters_come_from_a_random_subset_of_the_bank() -> None:
    filters = stylegan.draw_oriented_filters(2000, seeded())
    matches = (filters[:, :, None] == oriented_filters()).all(dim=(3, 4))  # [count, channels, 40]
    assert (matches.sum(dim=2) == 1).all()
    used = matches.any(dim=1)
    # 24 draws from k filters, k uniform in 5..40, hit k·(1 - (1 - 1/k)^24) of them in the mean.
    k = np.arange(5, 41)
    expected = (k * (1 - (1 - 1 / k) ** 24)).mean()
    assert float(used.sum(dim=1).float().mean()) == pytest.approx(expected, abs=0.4)
    assert int(used.sum(dim=1).min()) <= 5
    shares = used.float().mean(dim=0)
    torch.testing.assert_close(shares, torch.full((40,), float(expected) / 40), atol=0.06, rtol=0)


def test_every_image_has_its_own_convolution() -> None:
    x = torch.randn(3, 24, 8, 8, generator=seeded())
    kernels = torch.randn(3, 24, 24, 3, 3, generator=seeded(1))
    found = stylegan.grouped_convolution(x, kernels.flatten(0, 1))
    for i in range(3):
        expected = F.conv2d(F.pad(x[i : i + 1], (1, 1, 1, 1), mode="reflect"), kernels[i])
        torch.testing.assert_close(found[i : i + 1], expected, atol=1e-4, rtol=1e-4)


def test_filtering_and_mixing_is_a_convolution_with_kernels_of_norm_1() -> None:
    x = torch.zeros(1, 24, 9, 9)
    filters = stylegan.draw_oriented_filters(1, seeded())
    kernels = []
    for channel in range(24):
        x.zero_()[0, channel, 4, 4] = 1
        response = stylegan.filtered_and_mixed(x, filters, seeded(5))
        kernels.append(response[0, :, 3:6, 3:6].flip(1, 2))  # of one input channel: [out, 3, 3]
    kernel = torch.stack(kernels, dim=1)  # [out, in, 3, 3]
    torch.testing.assert_close(kernel.flatten(1).norm(dim=1), torch.ones(24))
    factors = (kernel * filters[0]).sum(dim=(2, 3))
    torch.testing.assert_close(kernel, factors[..., None, None] * filters[0])


def test_noise_maps() -> None:
    sides = [4, 8, 8, 16, 16]
    for draw in (stylegan.power_law_maps, stylegan.sparse_maps, stylegan.shared_map):
        assert [m.shape for m in draw(2, sides, seeded())] == [(2, side, side) for side in sides]
    small, large = (stylegan.shared_map(2, sides, seeded())[i] for i in (1, 3))
    torch.testing.assert_close(small, F.avg_pool2d(large, 2))
    assert not torch.equal(*stylegan.power_law_maps(2, sides, seeded())[3:])


def test_sparse_noise_lies_in_one_place() -> None:
    def mean_fourth_moment(noise: Tensor) -> float:
        centred = noise - noise.mean(dim=(1, 2), keepdim=True)
        return float((centred**4).mean(dim=(1, 2)).div(centred.square().mean(dim=(1, 2)) ** 2).mean())

    assert mean_fourth_moment(stylegan.power_law_maps(50, [32], seeded())[0]) < 4
    assert mean_fourth_moment(stylegan.sparse_maps(50, [32], seeded())[0]) > 15


def test_colours_have_the_means_and_deviations_of_photographs() -> None:
    x = torch.randn(4000, 3, 4, 4, generator=seeded()) * 7 + 3
    # Where nothing is clipped: means are compared by their medians, which clipping leaves alone.
    images = stylegan.coloured(x, seeded(1))
    unclipped = ((images > 0) & (images < 1)).all(dim=(2, 3))
    deviations = images.std(dim=(2, 3), correction=0)
    medians = torch.tensor([[0.483, 0.455, 0.401], [0.219, 0.213, 0.213]])
    torch.testing.assert_close(images.mean(dim=(2, 3)).median(dim=0).values, medians[0], atol=0.015, rtol=0)
    assert (deviations[unclipped].median() > 0.1) & (deviations[unclipped].median() < 0.219)
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_four_kinds_look_as_their_names_say() -> None:
    images = {
        draw.__name__: draw(32, 32, seeded())
        for draw in (stylegan.random, stylegan.high_frequency, stylegan.sparse, stylegan.oriented)
    }
    high = {name: share_of_high_frequencies(of_kind) for name, of_kind in images.items()}
    busiest = {name: share_of_busiest_quarter(of_kind) for name, of_kind in images.items()}
    assert high["high_frequency"] > 4 * high["random"]
    assert high["oriented"] > 4 * high["random"]
    assert busiest["sparse"] > 1.3 * busiest["high_frequency"]
