"""Gradients of a standardised weight: norms and sums equal those of the gradients that are never formed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpvision.gradients.standardized import PulledBack
from dpvision.networks.weight_standardization import standardize


def example(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients [5, 4, 3, 2, 2], a weight with one filter at the variance floor, and gains (one negative)."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 4, 3, 2, 2, generator=generator, dtype=dtype)
    weight = torch.randn(4, 3, 2, 2, generator=generator, dtype=dtype)
    weight[2] = weight[2] * 1e-4
    return gradients, weight, torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=dtype)


def test_pull_back_is_that_of_autograd() -> None:
    gradients, weight, gain = example()
    _, pull_back = torch.func.vjp(standardize, weight, gain)
    to_weight, to_gain = torch.func.vmap(pull_back)(gradients)
    ours = PulledBack(gradients, weight, gain)
    torch.testing.assert_close(ours.instantiate(), to_weight)
    torch.testing.assert_close(ours.to_gain, to_gain)


def test_norms_and_weighted_sums_are_those_of_the_instantiated() -> None:
    gradients, weight, gain = example()
    ours = PulledBack(gradients, weight, gain)
    each = ours.instantiate()
    torch.testing.assert_close(ours.squared_norms(), each.flatten(1).square().sum(dim=1), rtol=1e-5, atol=0)
    weights = torch.rand(5, dtype=torch.float64)
    torch.testing.assert_close(ours.weighted_sum(weights), torch.einsum("b,boihw->oihw", weights, each))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_a_norm_is_not_under_reported_where_it_nearly_cancels(scale: float) -> None:
    """A gradient along the weight vanishes under the pull-back but for rounding, which must stay covered."""
    _, weight, gain = example(torch.float32)
    unit = standardize(weight)
    nudge = 1e-3 * torch.randn(64, *weight.shape, generator=torch.Generator().manual_seed(1))
    gradients = scale * (unit + 5 + nudge)
    reported = PulledBack(gradients, weight, gain).squared_norms()
    true = PulledBack(gradients.double(), weight.double(), gain.double()).instantiate()
    assert (reported.double() >= true.flatten(1).square().sum(dim=1) * (1 - 1e-5)).all()


def test_an_example_of_weight_zero_adds_nothing() -> None:
    gradients, weight, gain = example()
    gradients[1, 0, 0, 0, 0] = float("nan")
    ours = PulledBack(gradients, weight, gain)
    assert ours.squared_norms().isnan().tolist() == [False, True, False, False, False]
    assert ours.weighted_sum(torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)).isfinite().all()
