"""Features that are kept in a file teach every method what those in memory do, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dpvision.images import Images, rows_on_disk
from dpvision.images.rows_on_disk import RowsOnDisk
from dpvision.methods import Method, find_method
from dpvision.methods.search import Search
from dpvision.methods.tuned import Tuned
from dpvision.privacy import Budget, SeededRandom
from tests.methods.learning import CPU, facts_of, learned

BUDGET = Budget(8.0, 1e-3)
COUNT = 300
ENCODER: dict[str, Any] = {"encoder": "random-wrn-10-1"}
CASES: list[tuple[Method, dict[str, Any]]] = [
    (find_method("dp-randp"), ENCODER | {"steps": 3}),
    (find_method("dp-randp"), ENCODER | {"steps": 3, "expected_batch_size": 100, "head": "affine"}),
    (find_method("dp-ridge"), ENCODER),
    (Tuned(find_method("dp-randp"), Search({"learning_rate": (1.0, 30.0)}, 2)), ENCODER | {"steps": 3}),
]


@pytest.fixture
def all_on_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Makes all features go to files from now on; the list of how many rows each file has."""

    def begin() -> list[int]:
        sizes: list[int] = []
        init = RowsOnDisk.__init__

        def watched(made: RowsOnDisk, parts: Any, count: int, *others: Any) -> None:
            sizes.append(count)
            init(made, parts, count, *others)

        monkeypatch.setattr(RowsOnDisk, "__init__", watched)
        monkeypatch.setattr(rows_on_disk, "physical_memory", lambda: 0)
        return sizes

    return begin


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize(("method", "overrides"), CASES)
def test_a_method_learns_the_same(
    method: Method,
    overrides: dict[str, Any],
    units: bool,
    left_or_right: Callable[[int], Images],
    all_on_disk: Callable[[], list[int]],
) -> None:
    images = left_or_right(COUNT)
    if units:
        images = images.with_units([f"{number % 120}" for number in range(COUNT)])
    config = method.default_config(facts_of(images), BUDGET, CPU, overrides)
    expected = learned(method, config, images, BUDGET, random=SeededRandom(1))
    sizes = all_on_disk()
    found = learned(method, config, images, BUDGET, random=SeededRandom(1))
    assert COUNT in sizes
    assert found.facts == expected.facts
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, expected.tensors[name]), name
