from __future__ import annotations

import torch
from torch.nn import functional as F

from dpvision.networks import WeightStandardizedConv2d, standardize


def test_filters_have_zero_mean_and_variance_one_over_fan_in() -> None:
    weight = 3 + 5 * torch.randn(8, 6, 3, 5, generator=torch.Generator().manual_seed(0))
    standardized = standardize(weight)
    torch.testing.assert_close(standardized.mean(dim=(1, 2, 3)), torch.zeros(8), atol=1e-6, rtol=0)
    variance = standardized.var(dim=(1, 2, 3), correction=0)
    torch.testing.assert_close(variance, torch.full((8,), 1 / 90), rtol=1e-5, atol=0)


def test_gain_scales_each_filter() -> None:
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    gain = torch.tensor([1.0, -2.0, 0.0])
    torch.testing.assert_close(standardize(weight, gain), standardize(weight) * gain[:, None, None, None])


def test_constant_filter_is_finite_with_finite_gradient() -> None:
    weight = torch.full((2, 3, 3, 3), 0.7, requires_grad=True)
    standardized = standardize(weight)
    (standardized * torch.arange(54.0).view_as(weight)).sum().backward()
    torch.testing.assert_close(standardized, torch.zeros_like(weight), atol=1e-4, rtol=0)
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_statistics_are_at_least_float32() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    half = weight.bfloat16()
    assert torch.equal(standardize(half), standardize(half.float()))
    assert standardize(weight.double()).dtype == torch.float64


def test_gradient_is_the_numerical_one() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 2, 2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    gain = torch.randn(2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(standardize, (weight, gain))


def test_convolution_uses_the_standardized_weight() -> None:
    convolution = WeightStandardizedConv2d(4, 6, 3, stride=2, padding=1, groups=2)
    torch.nn.init.normal_(convolution.gain)
    torch.nn.init.normal_(convolution.bias)
    x = torch.randn(2, 4, 7, 7)
    weight = standardize(convolution.weight, convolution.gain)
    torch.testing.assert_close(
        convolution(x), F.conv2d(x, weight, convolution.bias, stride=2, padding=1, groups=2)
    )


def test_standardisation_starts_close_to_the_identity() -> None:
    torch.manual_seed(0)
    convolution = WeightStandardizedConv2d(64, 64, 3)
    scale = standardize(convolution.weight).norm() / convolution.weight.norm()
    assert 0.99 < scale < 1.01
