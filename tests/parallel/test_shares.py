"""Which process has which example."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpvision.parallel import Peers, share_of


class One(Peers):
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def owners(ids: torch.Tensor, size: int, count: int) -> torch.Tensor:
    """The rank of each example; −1 of one that nobody has, and an error of one that two have."""
    found = torch.full((len(ids),), -1)
    for rank in range(size):
        share = share_of(One(rank, size), ids, count)
        assert (found[share] == -1).all()
        assert torch.equal(share, share.sort().values)
        found[share] = rank
    return found


@given(st.integers(1, 3000), st.integers(1, 9), st.integers(0, 2**31))
def test_each_example_is_of_one_process_whoever_else_is_there(count: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(2**40 // 2**20, generator=generator)[:count] * 2**20 - 2**39
    everyone = owners(ids, size, count)
    assert (everyone >= 0).all()
    some = torch.randperm(count, generator=generator)[: generator.initial_seed() % count + 1]
    assert torch.equal(owners(ids[some], size, count), everyone[some])


@pytest.mark.parametrize(("count", "size"), [(1797, 2), (60_000, 8), (10**6, 64)])
def test_shares_are_about_equal(count: int, size: int) -> None:
    sizes = torch.bincount(owners(torch.arange(count), size, count), minlength=size)
    assert int(sizes.max()) <= 1.05 * count / size


def test_a_process_has_runs_of_neighbours() -> None:
    share = share_of(One(1, 4), torch.arange(10**6), 10**6)
    assert len(share) / int((share.diff() != 1).sum() + 1) > 200


def test_one_process_has_all() -> None:
    assert torch.equal(share_of(One(0, 1), torch.arange(5) * 7, 5), torch.arange(5))
