"""Symmetric matrices as the numbers of their upper triangles, of the same norm."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Triangle:
    """The upper triangle of n×n matrices, row by row: T = n (n + 1) / 2 numbers.

    Guarantee: what :meth:`pack` returns of a symmetric matrix has the norm of that matrix, for what is twice
    in it, off the diagonal, is multiplied by √2. So a bound on how far matrices move is one on how far the
    numbers do. ``tests/privacy/test_triangles.py`` compares them.

    >>> Triangle.of(2).pack(torch.tensor([[[3.0, 1.0], [1.0, 4.0]]]))
    tensor([[3.0000, 1.4142, 4.0000]])

    Attributes:
        rows, columns: which entry each number is, int64 ``[T]``.
        factors: what it is multiplied by, ``[T]``.
    """

    rows: Tensor
    columns: Tensor
    factors: Tensor

    @classmethod
    def of(cls, n: int, device: torch.device | str = "cpu") -> Triangle:
        """Return that of n×n matrices, with factors in float64."""
        rows, columns = torch.triu_indices(n, n, device=device)
        return cls(rows, columns, torch.where(rows == columns, 1.0, 2.0).double().sqrt())

    def pack(self, matrices: Tensor) -> Tensor:
        """Return the numbers ``[K, T]`` of symmetric matrices ``[K, n, n]``, in their type."""
        flat = self.rows * matrices.shape[2] + self.columns
        return matrices.flatten(1).index_select(1, flat) * self.factors.to(matrices.dtype)

    def unpack(self, numbers: Tensor) -> Tensor:
        """Return the symmetric matrices ``[K, n, n]`` of which numbers ``[K, T]`` were packed."""
        side = int(self.rows[-1]) + 1
        entries = numbers / self.factors.to(numbers.dtype)
        matrices = numbers.new_zeros(len(numbers), side, side)
        matrices[:, self.rows, self.columns] = entries
        matrices[:, self.columns, self.rows] = entries
        return matrices
