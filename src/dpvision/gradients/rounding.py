"""Norms that are never below the true one, and sums that are right to double precision.

Clipping holds if every example's part of the sum, as computed, has at most the norm C. So a norm must be at
least that of the very numbers that are added up, and their sum must not be off by more than the margin that
clipping leaves. Below u = 2⁻²⁴ is the unit roundoff of float32, and γ_n = n·u / (1 − n·u) bounds the relative
error of a sum of n products in float32, in whatever order it is taken, with or without fused operations
(Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).

**A float32 sum of n squares may be low by n·u**, and is where all its terms are equal: 2 % at 1.6·10⁷. So
only `BLOCK` squares at a time are summed in float32, and the blocks in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256
"""The number of squares that are summed in float32."""

AT_A_TIME = 1 << 18
"""The number of values that are made float64 at a time on a CPU: 2 MiB, which stays in its cache."""


def squared_norms(rows: Tensor) -> Tensor:
    """Return the squares of the norms of rows ``[B, n]``: ``[B]``, float64, never below the true ones.

    A block's norm r̂, √ of a float32 sum of m = `BLOCK` squares, is at least r·√(1 − γ_m)·(1 − u), so r̂² ≥
    r²·(1 − (m + 3)·u) for m·u < 10⁻². Squaring and adding the blocks in float64 loses less than n·2⁻⁵³ < u
    for n < 2²⁹. The result is multiplied by 1 + 2·m·u, which is more, and at most 5·10⁻⁵ above the truth.
    Squares that are too small for float32 are lost: less than 2·2⁻¹²⁶ for each, which is added.
    """
    number = rows.shape[1]
    whole = number - number % BLOCK
    found = rows.new_zeros(len(rows), dtype=torch.float64)
    if whole:
        found += _block_norms(rows[:, :whole].unflatten(1, (-1, BLOCK))).square().sum(dim=1)
    if number > whole:
        found += _block_norms(rows[:, whole:]).square()
    limits = torch.finfo(rows.dtype)
    return found * (1 + BLOCK * limits.eps) + 2 * number * limits.tiny


def _block_norms(blocks: Tensor) -> Tensor:
    """Compute norms of blocks, ``[…, m] -> […]`` float64, of sums in the dtype of the blocks."""
    return torch.linalg.vector_norm(blocks, dim=-1).double()


def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """Compute Σ_b weights[b]·rows[b] of rows ``[B, n]`` and float64 weights ``[B]``: ``[n]``, float64.

    Off by at most B·2⁻⁵³·Σ_b weights[b]·‖rows[b]‖ in norm, for a product of float32 numbers with a weight
    is rounded once.
    """
    total = rows.new_empty(rows.shape[1], dtype=torch.float64)
    columns = max(1, AT_A_TIME // max(1, len(rows))) if rows.device.type == "cpu" else rows.shape[1]
    for some, out in zip(rows.split(max(1, columns), dim=1), total.split(max(1, columns)), strict=True):
        torch.mv(some.double().t(), weights, out=out)
    return total
