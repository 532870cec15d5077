"""What one unit, of any images, can change in sums that are released once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpvision.images.units import Units
from dpvision.methods import class_weights, dp_ridge
from dpvision.methods.dp_ridge import sufficient_statistics
from dpvision.privacy.mean_embedding import MeanEmbedding

D, K = 4, 3
Sums = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]

rows = st.lists(
    st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-1, 1, width=32)), min_size=D, max_size=D
)
units = st.lists(st.tuples(rows, st.integers(0, K - 1)), min_size=1, max_size=6)


def moments(features: Tensor, labels: Tensor, shares: Tensor) -> dict[str, Tensor]:
    features = features.double() / features.double().norm(dim=1, keepdim=True).clamp(min=1)
    return sufficient_statistics(features, labels, K, shares)


def counts(features: Tensor, labels: Tensor, shares: Tensor) -> dict[str, Tensor]:
    return {"counts": class_weights.class_counts(labels, K, shares)}


def embedding_of(mechanism: MeanEmbedding) -> Sums:
    def sums_of(features: Tensor, labels: Tensor, shares: Tensor) -> dict[str, Tensor]:
        sums = mechanism.zero()
        mechanism.add(sums, features, labels if mechanism.num_classes else None, shares)
        return sums

    return sums_of


MECHANISMS = [MeanEmbedding(D, K, 1.5, 0.5), MeanEmbedding(D, K, 0.0, 2.0), MeanEmbedding(D, None, 1.0, 1.0)]
CASES = [
    (moments, dp_ridge.SENSITIVITY, dp_ridge.REPLACE_ONE_RATIO),
    (counts, class_weights.SENSITIVITY, class_weights.REPLACE_ONE_RATIO),
    *((embedding_of(one), one.sensitivity, one.replace_one_ratio) for one in MECHANISMS),
]


def released(sums_of: Sums, members: list[Any]) -> Tensor:
    """All sums over units, each a list of features and labels, as one vector."""
    names = [number for number, unit in enumerate(members) for _ in unit]
    images = [image for unit in members for image in unit]
    features = torch.tensor([x for x, _ in images], dtype=torch.float32).reshape(-1, D)
    labels = torch.tensor([y for _, y in images], dtype=torch.int64)
    shares = Units.named(names, "units").shares if images else torch.zeros(0, dtype=torch.float64)
    return torch.cat([total.flatten() for total in sums_of(features, labels, shares).values()])


@pytest.mark.parametrize(("sums_of", "sensitivity", "ratio"), CASES)
@given(one=units, other=units, rest=st.lists(units, min_size=1, max_size=3))
def test_one_unit_changes_no_more_than_declared(
    sums_of: Sums, sensitivity: float, ratio: float, one: Any, other: Any, rest: Any
) -> None:
    with_one, with_other = released(sums_of, [one, *rest]), released(sums_of, [other, *rest])
    assert float((with_one - released(sums_of, rest)).norm()) <= sensitivity
    assert float((with_one - with_other).norm()) <= ratio * sensitivity


@pytest.mark.parametrize(("sums_of", "sensitivity", "ratio"), CASES)
@pytest.mark.parametrize("size", [1, 3, 100_000])
def test_a_unit_of_images_that_are_alike_comes_near_and_no_nearer(
    sums_of: Sums, sensitivity: float, ratio: float, size: int
) -> None:
    """Summed by image it would count ``size`` times."""
    rest = [[([0.0, 0.0, 1.0, 0.0], 2)]] * 3
    one, other = [[([1.0, 0.0, 0.0, 0.0], 0)] * size], [[([0.0, 1.0, 0.0, 0.0], 1)] * size]
    joined = float((released(sums_of, one + rest) - released(sums_of, rest)).norm())
    assert joined == pytest.approx(sensitivity, rel=1e-4)
    assert joined <= sensitivity
    changed = released(sums_of, one + rest) - released(sums_of, other + rest)
    assert float(changed.norm()) <= ratio * sensitivity


@pytest.mark.parametrize("sums_of", [case[0] for case in CASES])
@given(members=st.lists(units, min_size=1, max_size=3))
def test_units_of_one_image_are_summed_as_images_are(sums_of: Sums, members: Any) -> None:
    images = [[image] for unit in members for image in unit]
    features = torch.tensor([x for ((x, _),) in images], dtype=torch.float32)
    labels = torch.tensor([y for ((_, y),) in images])
    alone = sums_of(features, labels, torch.ones(len(images), dtype=torch.float64))
    assert released(sums_of, images).equal(torch.cat([total.flatten() for total in alone.values()]))
