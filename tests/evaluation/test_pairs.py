from __future__ import annotations

import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from dpvision.evaluation.pairs import squared_distances


def features(n: int, seed: int, offset: float = 0.0) -> Tensor:
    return offset + torch.randn(n, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_distances(x: Tensor, y: Tensor, pairs_at_a_time: int = 10**6) -> Tensor:
    return torch.cat([distances for _, distances in squared_distances(x, y, pairs_at_a_time)])


def test_are_those_of_pairs_far_from_the_origin_too() -> None:
    x, y = features(40, 0, offset=1e6), features(50, 1, offset=1e6)
    expected = torch.from_numpy(cdist(x, y, "sqeuclidean")).float()
    torch.testing.assert_close(all_distances(x, y), expected)


def test_blocks_are_bounded_and_say_their_rows() -> None:
    x, y = features(33, 0), features(20, 1)
    blocks = list(squared_distances(x, y, 100))
    assert [(rows.start, rows.stop) for rows, _ in blocks] == [(i, min(i + 5, 33)) for i in range(0, 33, 5)]
    assert all(d.shape == (rows.stop - rows.start, 20) for rows, d in blocks)
    assert len(list(squared_distances(x, y, 1))) == 33  # at least one row


def test_a_pair_has_one_distance_whatever_the_block_and_the_order() -> None:
    x, y = features(100, 0, offset=5), features(200, 1, offset=5)
    found = all_distances(x, y)
    assert torch.equal(all_distances(x, y, 700), found)
    assert torch.equal(all_distances(y, x).T, found)


def test_what_is_identical_is_at_no_distance() -> None:
    x = features(300, 0, offset=5)
    assert torch.equal(all_distances(x, x, 7000).diagonal(), torch.zeros(300))
    assert (all_distances(x, x) == 0).sum() == 300
    near = x + 1e-4 * features(300, 1)
    torch.testing.assert_close(
        all_distances(x, near).diagonal(), (x - near).square().sum(dim=1).float(), rtol=1e-4, atol=0
    )
