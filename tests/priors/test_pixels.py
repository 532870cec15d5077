from __future__ import annotations

import json

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
