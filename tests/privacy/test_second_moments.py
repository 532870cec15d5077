"""What one image can change in released second moments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpvision.privacy import InputError
from dpvision.privacy.second_moments import SecondMoments

N, K = 4, 3

entries = st.one_of(st.just(0.0), st.floats(-(2.0**99), 2.0**99, width=32), st.floats(-1, 1, width=32))
examples = st.tuples(st.lists(entries, min_size=N, max_size=N), st.integers(0, K - 1))


def sums_of(mechanism: SecondMoments, images: list[Any], shares: Tensor | None = None) -> Tensor:
    sums = torch.zeros(K, N, N, dtype=torch.float64)
    if images:
        vectors, labels = torch.tensor([v for v, _ in images]), torch.tensor([y for _, y in images])
        mechanism.add(sums, vectors, labels, shares)
    return sums


def released(images: list[Any], shares: Tensor | None = None) -> Tensor:
    mechanism = SecondMoments(N, K)
    return mechanism.triangles(sums_of(mechanism, images, shares))["moments"].flatten()


@given(examples, examples, st.lists(examples, max_size=3))
def test_one_image_changes_no_more_than_declared(one: Any, other: Any, rest: list[Any]) -> None:
    mechanism = SecondMoments(N, K).mechanism(1.0, 5)
    with_one, with_other, without = released([one, *rest]), released([other, *rest]), released(rest)
    assert float((with_one - without).norm()) <= mechanism.sensitivity
    assert float((with_one - with_other).norm()) <= mechanism.replace_one_ratio * mechanism.sensitivity


@given(st.lists(examples, min_size=2, max_size=4), st.lists(examples, min_size=1, max_size=4))
def test_nor_does_a_unit_of_several(unit: list[Any], other: list[Any]) -> None:
    mean, others = (
        released(images, torch.full((len(images),), 1 / len(images), dtype=torch.float64))
        for images in (unit, other)
    )
    assert float(mean.norm()) <= 1
    assert float((mean - others).norm()) <= SecondMoments(N, K).replace_one_ratio


def test_the_worst_pair_reaches_what_is_declared() -> None:
    """So that the noise is no more than it must be."""
    one, other = ([1.0, 0.0, 0.0, 0.0], 0), ([0.0, 1.0, 0.0, 0.0], 0)
    assert float(released([one]).norm()) == pytest.approx(1, rel=1e-4)
    declared = SecondMoments(N, K).replace_one_ratio
    assert float((released([one]) - released([other])).norm()) == pytest.approx(declared, rel=1e-4)
    elsewhere = ([1.0, 0.0, 0.0, 0.0], 2)
    assert float((released([one]) - released([elsewhere])).norm()) == pytest.approx(math.sqrt(2), rel=1e-4)


def test_sums_are_those_of_products_and_come_back_as_matrices() -> None:
    mechanism = SecondMoments(N, K)
    vectors = torch.randn(20, N, generator=torch.Generator().manual_seed(0)) / 4
    labels = torch.arange(20) % 2
    images = [(v.tolist(), int(y)) for v, y in zip(vectors, labels, strict=True)]
    sums = sums_of(mechanism, images)
    for label in range(K):
        of_class = vectors[labels == label].double()
        torch.testing.assert_close(sums[label], of_class.T @ of_class, rtol=3e-5, atol=1e-12)
    found = mechanism.matrices(mechanism.triangles(sums))
    torch.testing.assert_close(found, sums)
    blank = mechanism.blank()["moments"]
    assert blank.shape == mechanism.triangles(sums)["moments"].shape
    assert not blank.any()


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        released([([math.nan, 0.0, 0.0, 0.0], 0)])
