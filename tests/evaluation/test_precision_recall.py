from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.evaluation.precision_recall import PrecisionRecall, precision_recall
from dpvision.privacy.errors import InputError


def features(n: int, seed: int, d: int = 3, shift: float = 0.0) -> Tensor:
    return shift + torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def values(figures: PrecisionRecall) -> tuple[float, ...]:
    return (
        figures.precision.value,
        figures.recall.value,
        figures.density.value,
        figures.coverage.value,
    )


def naive(synthetic: NDArray[Any], real: NDArray[Any], k: int) -> tuple[float, ...]:
    """The definitions of Kynkäänniemi et al. (equations 1 and 2) and Naeem et al. (equations 3 and 5)."""

    def radius(x: NDArray[Any], among: NDArray[Any]) -> float:
        return float(np.sort(np.linalg.norm(among - x, axis=1))[k])

    def inside(x: NDArray[Any], centre: NDArray[Any], among: NDArray[Any]) -> bool:
        return bool(np.linalg.norm(x - centre) <= radius(centre, among))

    in_real = np.array([[inside(y, x, real) for x in real] for y in synthetic])  # [M, N]
    in_synthetic = np.array([[inside(x, y, synthetic) for y in synthetic] for x in real])  # [N, M]
    return (
        in_real.any(axis=1).mean(),
        in_synthetic.any(axis=1).mean(),
        in_real.sum() / (k * len(synthetic)),
        in_real.any(axis=0).mean(),
    )


@pytest.mark.parametrize(("m", "n", "k"), [(30, 40, 5), (25, 20, 1), (20, 30, 3)])
def test_are_the_papers_definitions(m: int, n: int, k: int) -> None:
    x, y = features(m, 0, shift=0.7), features(n, 1)
    assert values(precision_recall(x, y, k=k)) == pytest.approx(naive(x.numpy(), y.numpy(), k))


def test_agrees_with_the_code_of_naeem_et_al(capsys: pytest.CaptureFixture[str]) -> None:
    prdc = pytest.importorskip("prdc")
    x, y = features(150, 0, shift=0.7), features(200, 1)
    expected = prdc.compute_prdc(real_features=y.numpy(), fake_features=x.numpy(), nearest_k=5)
    names = ("precision", "recall", "density", "coverage")
    assert values(precision_recall(x, y)) == pytest.approx([expected[name] for name in names])


@pytest.mark.parametrize("pairs_at_a_time", [1, 333, 1000, 10**6])
def test_blocks_do_not_change_results(pairs_at_a_time: int) -> None:
    x, y = features(100, 0, d=20, shift=50), features(120, 1, d=20, shift=50)
    assert precision_recall(x, y, pairs_at_a_time=pairs_at_a_time) == precision_recall(x, y)
    same = precision_recall(x, x, pairs_at_a_time=pairs_at_a_time)
    # On the surface of the balls too: the image itself and its k neighbours are in each.
    assert values(same) == (1, 1, 1.2, 1)


def test_equal_distributions_and_distant_ones() -> None:
    alike = precision_recall(features(1000, 0), features(1000, 1))
    assert alike.density.value == pytest.approx(1, abs=0.1)
    assert min(values(alike)) > 0.9
    assert values(precision_recall(features(50, 0, shift=100), features(50, 1))) == (0, 0, 0, 0)


def test_a_generator_of_one_image_is_precise_but_covers_nothing() -> None:
    real = features(200, 0)
    collapsed = torch.zeros(200, 3)
    figures = precision_recall(collapsed, real)
    assert figures.precision.value == 1
    assert figures.recall.value == 0
    assert figures.coverage.value < 0.3


def test_intervals_contain_the_values_and_shrink() -> None:
    small, large = (precision_recall(features(n, 0, shift=1.0), features(n, 1)) for n in (60, 2000))
    names = ("precision", "recall", "density", "coverage")
    for name, few, many in [(name, getattr(small, name), getattr(large, name)) for name in names]:
        assert few.low < few.value < few.high, name
        assert many.low < many.value < many.high, name
        assert many.high - many.low < (few.high - few.low) / 2, name
        assert astuple(few)[3:] == (60, 60)


def test_counts_of_both_sets_are_in_their_places() -> None:
    figures = precision_recall(features(30, 0), features(40, 1))
    assert {astuple(figure)[3:] for figure in vars(figures).values()} == {(30, 40)}


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="k must be at least 1, not 0"):
        precision_recall(features(9, 0), features(9, 0), k=0)
    with pytest.raises(InputError, match="5 real images, too few to compare; give at least 6"):
        precision_recall(features(9, 0), features(5, 0))
    with pytest.raises(InputError, match="synthetic images are not finite"):
        precision_recall(torch.full((9, 2), torch.inf), features(9, 0, d=2))


def test_the_density_of_images_in_equally_many_balls_is_in_its_interval() -> None:
    """Seven images in seven balls each, of which five make 1: their mean is 1.4 but for rounding."""
    real = torch.eye(7)
    found = precision_recall(real * 1e-3, real, k=5)
    assert found.density.value == 1.4
    assert found.density.low <= found.density.value <= found.density.high
    assert found.density.high - found.density.low < 1e-9
