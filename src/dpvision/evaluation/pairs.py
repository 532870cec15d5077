"""Distances between all pairs of two sets of features, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

PAIRS_AT_A_TIME = 2**24
"""The number of distances to hold at once: 128 MiB in float64, of which computing them takes a few."""

_ROUNDING = 1e-12


def squared_distances(
    x: Tensor, y: Tensor, pairs_at_a_time: int = PAIRS_AT_A_TIME
) -> Iterator[tuple[slice, Tensor]]:
    """Yield squared Euclidean distances of ``[M, D]`` and ``[N, D]``: rows of x, and float32 ``[b, N]``.

    They are computed in float64 as ``‖x‖² − 2 x·y + ‖y‖²``, and then rounded: pairs at one distance have the
    same number whatever the block they are in, and identical features have 0.
    """
    # Distances do not change with the origin, but rounding errors are relative to the norms.
    centre = y.double().mean(dim=0)
    x, y = x.double() - centre, y.double() - centre
    norms = y.square().sum(dim=1)
    rows = max(1, pairs_at_a_time // len(y))
    for start in range(0, len(x), rows):
        block = slice(start, min(start + rows, len(x)))
        sums = x[block].square().sum(dim=1, keepdim=True) + norms
        distances = sums - 2 * x[block] @ y.T
        yield block, distances.masked_fill_(distances < _ROUNDING * sums, 0.0).float()
