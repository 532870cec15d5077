from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

from dpvision.networks import Normalize
from dpvision.priors import build_encoder
from dpvision.privacy.errors import InputError


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_features_are_pixels() -> None:
    x = pixels(2, 3, 4, 6)
    encoder = build_encoder("pixels", (3, 4, 6))
    assert encoder.out_features == 3 * 4 * 6
    torch.testing.assert_close(encoder(Normalize()(x)), x.flatten(1))
    averaged = build_encoder("pixels", (3, 4, 6), size=2)
    assert averaged.out_features == 3 * 2 * 2
    expected = x.unflatten(2, (2, 2)).unflatten(4, (2, 3)).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(averaged(Normalize()(x)), expected)


@pytest.mark.parametrize(("channels", "size"), [(1, 4), (3, 2), (3, None)])
def test_products_are_the_matrix_of_second_moments(channels: int, size: int | None) -> None:
    x = pixels(5, channels, 4, 4)
    encoder = build_encoder("pixels", (channels, 4, 4), size=size, products=True)
    features = encoder(Normalize()(x))
    count = channels * (size or 4) ** 2
    assert features.shape == (5, encoder.out_features) == (5, (count + 1) * (count + 2) // 2)
    assert features.dtype == torch.float32

    v = torch.cat([F.adaptive_avg_pool2d(x, size or 4).flatten(1), torch.ones(5, 1)], dim=1)
    matrices = v[:, :, None] * v[:, None, :]
    torch.testing.assert_close(features.norm(dim=1), matrices.flatten(1).norm(dim=1))
    moments = torch.zeros(count + 1, count + 1)
    flat = iter(features.mean(0))
    for row in range(count + 1):
        for column in range(row, count + 1):
            value = next(flat) / (1 if row == column else 2**0.5)
            moments[row, column] = moments[column, row] = value
    torch.testing.assert_close(moments, matrices.mean(0))
    torch.testing.assert_close(moments[-1, :-1], v[:, :-1].mean(0))


def test_the_config_rebuilds_it_and_says_that_nothing_was_learned() -> None:
    encoder = build_encoder("pixels", (1, 4, 4), size=2, products=True)
    assert encoder.provenance == {"source": "pixels; nothing learned"}
    again = build_encoder(**json.loads(json.dumps(encoder.config)))
    assert encoder.state_dict() == {}
    x = pixels(2, 1, 4, 4)
    assert torch.equal(again(x), encoder(x))
    assert again.config == encoder.config


@pytest.mark.parametrize("size", [0, 5])
def test_a_size_that_is_no_average_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"size must be between 1 and 4 .* 4×6 pixels, not {size}"):
        build_encoder("pixels", (3, 4, 6), size=size)


def noisy_products(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean directions of products of two classes of 64 pixels that differ in three ways, and with noise."""
    encoder = build_encoder("pixels", (1, 8, 8), products=True)
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(2, 3, 64, generator=generator)
    x = torch.rand(2, 100, 3, generator=generator) @ patterns / 3
    means = encoder.mean_directions(Normalize()(x.view(200, 1, 8, 8)), groups=2)
    return means, means + noise * torch.randn(means.shape, generator=generator)


def test_shrinking_drops_what_noise_alone_would_make() -> None:
    encoder = build_encoder("pixels", (1, 8, 8), products=True)
    exact, noisy = noisy_products(2e-3)
    shrunk = encoder.shrunk(noisy, torch.full((2,), 2e-3))
    assert (shrunk - exact).norm() < 0.4 * (noisy - exact).norm()
    torch.testing.assert_close(encoder.shrunk(exact, torch.zeros(2)), exact, atol=1e-5, rtol=0)
    # Nothing but noise: an eigenvalue or two may be above the edge, by little.
    noise = noisy - exact
    assert encoder.shrunk(noise, torch.full((2,), 2e-3)).norm() < 0.3 * noise.norm()
    # Half the noise claimed: much of it is left.
    assert encoder.shrunk(noise, torch.full((2,), 1e-3)).norm() > 0.5 * noise.norm()


def test_gaussian_images_have_the_moments_of_the_means() -> None:
    encoder = build_encoder("pixels", (1, 8, 8), products=True)
    exact, _ = noisy_products(0.0)
    law = encoder.gaussian_images(exact, rank=64)
    assert law is not None
    # The moments of v = (pixels, 1) / ‖(pixels, 1)‖, whose last entry divides all others.
    corner = exact[:, -1:]
    row = exact.new_zeros(2, 65, 65)
    row[:, encoder.rows, encoder.columns] = exact / encoder.factors
    torch.testing.assert_close(law.mean, row[:, :-1, -1] / corner)
    second = law.root @ law.root.transpose(1, 2) + law.mean[:, :, None] * law.mean[:, None, :]
    upper = torch.triu(torch.ones(64, 64)).bool()
    torch.testing.assert_close(second[:, upper], (row[:, :-1, :-1] / corner[:, :, None])[:, upper])
    assert build_encoder("pixels", (1, 8, 8)).gaussian_images(torch.rand(2, 64), 4) is None


@pytest.mark.parametrize("weights", [[1, 1], [3, 0.5]])
def test_beside_other_features_products_are_shrunk_and_drawn_alike(weights: list[float]) -> None:
    alone = build_encoder("pixels", (1, 8, 8), products=True)
    both = build_encoder(
        "scattering+pixels",
        (1, 8, 8),
        parts=[{"J": 1, "groups": 0}, {"products": True}],
        part_weights=weights,
    )
    _, noisy = noisy_products(2e-3)
    others = torch.rand(2, both.out_features - alone.out_features)
    share = weights[1] / math.hypot(*weights)
    joined = torch.cat([others, share * noisy], dim=1)
    shrunk = both.shrunk(joined, torch.full((2,), share * 2e-3))
    assert torch.equal(shrunk[:, : others.shape[1]], others)
    expected = alone.shrunk(noisy, torch.full((2,), 2e-3))
    torch.testing.assert_close(shrunk[:, others.shape[1] :], share * expected, atol=1e-6, rtol=1e-4)
    one, other = both.gaussian_images(shrunk, 3), alone.gaussian_images(expected, 3)
    assert one is not None
    assert other is not None
    torch.testing.assert_close(one.mean, other.mean, atol=1e-4, rtol=1e-4)
