from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.evaluation.kernel_distance import kernel_distance, unbiased_discrepancy
from dpvision.privacy.errors import InputError


def features(n: int, seed: int, d: int = 6, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def naive(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Equation 3 of Gretton et al., term by term, with the kernel of Bińkowski et al."""

    def kernel(a: NDArray[Any], b: NDArray[Any]) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    m, n = len(x), len(y)
    among_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    among_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    between = sum(kernel(a, b) for a in x for b in y) / (m * n)
    return among_x + among_y - 2 * between


def test_the_estimate_is_the_papers() -> None:
    x, y = features(12, 0).double(), features(9, 1, shift=0.5).double()
    assert unbiased_discrepancy(x, y) == pytest.approx(naive(x.numpy(), y.numpy()))


def test_agrees_with_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    x, y = features(12, 0).double(), features(12, 1, shift=0.5).double()
    assert unbiased_discrepancy(x, y) == pytest.approx(float(kid.poly_mmd(x, y)))


def test_every_image_is_in_one_of_the_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def record(x: Tensor, y: Tensor) -> float:
        seen.append((x, y))
        return float(len(seen))

    module = sys.modules[kernel_distance.__module__]
    monkeypatch.setattr(module, "unbiased_discrepancy", record)
    x, y = torch.arange(2500.0)[:, None], torch.arange(24_000.0)[:, None]
    figure = kernel_distance(x, y)
    assert len(seen) == 24
    assert figure.value == 12.5
    assert torch.equal(torch.cat([x for x, _ in seen]).flatten().sort().values, x.flatten().double())
    assert torch.equal(torch.cat([y for _, y in seen]).flatten().sort().values, y.flatten().double())
    assert {len(y) for _, y in seen} == {1000}


def test_equal_distributions_are_at_no_distance_and_others_are() -> None:
    assert abs(kernel_distance(features(2000, 0), features(2000, 1)).value) < 0.05
    x = features(500, 0)
    # Unbiased means: a set is nearer to itself than to another of its distribution.
    assert -0.2 < kernel_distance(x, x).value < 0
    apart = kernel_distance(features(500, 0, shift=1.0), features(500, 1))
    assert apart.low > 1


def test_interval_covers_the_expectation_at_any_size_and_shrinks() -> None:
    """In one dimension, x = 1 + a and y = a for standard normal a: the kernel (xy + 1)³ compares the first
    three moments, 3·1² + 3·(2 − 1)² + (4 − 0)².
    """
    widths, covered = [], 0
    for seed in range(80):
        n = 40 if seed % 2 else 2000
        figure = kernel_distance(features(n, seed, 1, shift=1.0), features(n, 1000 + seed, 1), seed=seed)
        assert figure.low < figure.value < figure.high
        assert (figure.num_synthetic, figure.num_real) == (n, n)
        covered += figure.low <= 22 <= figure.high
        widths.append(figure.high - figure.low)
    assert 68 <= covered <= 79
    assert np.mean(widths[::2]) < np.mean(widths[1::2]) / 4


def test_too_few_or_too_uneven_sets_are_refused() -> None:
    with pytest.raises(InputError, match="19 real images"):
        kernel_distance(torch.ones(20, 2), torch.ones(19, 2))
    with pytest.raises(InputError, match="30 synthetic images, too few to compare; give at least 40"):
        kernel_distance(torch.ones(30, 2), torch.ones(20_000, 2))
