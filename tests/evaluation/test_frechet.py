from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torch import Tensor

from dpvision.evaluation.frechet import frechet_distance, gaussian_distance
from dpvision.privacy.errors import InputError


def features(n: int, d: int, seed: int, *, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return shift + scale * torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing


def moments(x: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    return x.numpy().mean(axis=0), np.cov(x.numpy(), rowvar=False)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 50, 7), (200, 40, 16)])
def test_is_the_papers_formula(n: int, m: int, d: int) -> None:
    x, y = features(n, d, 0, shift=0.3), features(m, d, 1, scale=1.7)
    (mean_x, cov_x), (mean_y, cov_y) = moments(x), moments(y)
    root = sqrtm(cov_x @ cov_y).real
    expected = np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(x, y).value == pytest.approx(expected)


def test_agrees_with_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    x, y = features(80, 9, 0), features(90, 9, 1, shift=1.0)
    arguments = [torch.as_tensor(moment) for z in (x, y) for moment in moments(z)]
    assert frechet_distance(x, y).value == pytest.approx(float(fid._compute_fid(*arguments)))


def test_two_gaussians_of_diagonal_covariance_have_the_closed_form() -> None:
    # Features with exactly these means and covariances: all corners of a box.
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 5).double()
    corners *= ((len(corners) - 1) / len(corners)) ** 0.5
    s, r = torch.tensor([1.0, 2, 3, 0, 5]), torch.tensor([2.0, 2, 1, 4, 0])
    expected = 5 * 0.5**2 + (s - r).square().sum().item()
    assert gaussian_distance(corners * s, 0.5 + corners * r) == pytest.approx(expected)


def test_fewer_images_than_features_are_no_trouble() -> None:
    """The factors are then data matrices, and their product has the same singular values."""
    x, y = features(25, 40, 0), features(30, 40, 1)
    (mean_x, cov_x), (mean_y, cov_y) = moments(x), moments(y)
    values, vectors = np.linalg.eigh(cov_x)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_y @ root).clip(0)).sum()
    expected = np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x + cov_y) - 2 * shared
    figure = frechet_distance(x, y)
    assert figure.value == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(torch.ones(20, 40), torch.ones(20, 40)).value == 0


def test_equal_sets_are_at_no_distance_whatever_the_order_and_offset() -> None:
    x = features(300, 12, 0)
    scale = x.var(dim=0).sum().item()
    assert frechet_distance(x, x.flip(0)).value == pytest.approx(0, abs=1e-10 * scale)
    assert frechet_distance(x, x).low == 0
    moved = frechet_distance(x + 1000, features(300, 12, 1) + 1000)
    assert moved.value == pytest.approx(frechet_distance(x, features(300, 12, 1)).value, rel=1e-6)


def test_float32_features_are_computed_in_float64() -> None:
    x, y = features(100, 5, 0, shift=100).float(), features(100, 5, 1, shift=100).float()
    assert frechet_distance(x, y) == frechet_distance(x.double(), y.double())


def test_interval_contains_the_value_and_shrinks() -> None:
    figures = [frechet_distance(features(n, 4, 0, shift=0.5), features(n, 4, 1)) for n in (100, 10_000)]
    for figure, n in zip(figures, (100, 10_000), strict=True):
        assert figure.low < figure.value < figure.high
        assert (figure.num_synthetic, figure.num_real) == (n, n)
    widths = [figure.high - figure.low for figure in figures]
    assert widths[1] < widths[0] / 4  # a tenth, but for chance


def test_interval_covers_the_distance_of_the_distributions() -> None:
    """In two dimensions, where 400 images leave little bias: 1² + (3 − 1)² for each."""
    covered = [0, 0]
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, 400, 2, generator=generator).unbind()
        sets = (3 * x + 1, y)
        for i, (synthetic, real) in enumerate((sets, sets[::-1])):
            figure = frechet_distance(synthetic, real, seed=seed)
            covered[i] += figure.low <= 10 <= figure.high
    assert all(88 <= count <= 99 for count in covered)


def test_the_seed_decides_the_groups() -> None:
    x, y = features(50, 3, 0), features(60, 3, 1)
    assert frechet_distance(x, y, seed=1) == frechet_distance(x, y, seed=1)
    assert frechet_distance(x, y, seed=1).high != frechet_distance(x, y, seed=2).high


@pytest.mark.parametrize(
    ("synthetic", "real", "message"),
    [
        (torch.ones(20, 3), torch.ones(20, 4), "same D"),
        (torch.ones(20), torch.ones(20), "shape"),
        (torch.ones(19, 3), torch.ones(20, 3), "19 synthetic images, too few .* at least 20"),
        (torch.ones(20, 3), torch.full((20, 3), torch.nan), "features of real images are not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(synthetic: Tensor, real: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        frechet_distance(synthetic, real)
