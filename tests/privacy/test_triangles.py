from __future__ import annotations

import pytest
import torch

from dpvision.privacy.triangles import Triangle


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_numbers_have_the_norm_of_the_matrices_and_come_back(n: int, dtype: torch.dtype) -> None:
    matrices = torch.randn(4, n, n, dtype=dtype, generator=torch.Generator().manual_seed(n))
    matrices = matrices + matrices.transpose(1, 2)
    numbers = Triangle.of(n).pack(matrices)
    assert numbers.shape == (4, n * (n + 1) // 2)
    assert numbers.dtype == dtype
    torch.testing.assert_close(numbers.norm(dim=1), matrices.flatten(1).norm(dim=1))
    torch.testing.assert_close(Triangle.of(n).unpack(numbers), matrices)


def test_numbers_come_row_by_row() -> None:
    matrix = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
    root = 2**0.5
    expected = torch.tensor([[1.0, 2 * root, 3 * root, 4.0, 5 * root, 6.0]])
    torch.testing.assert_close(Triangle.of(3).pack(matrix[None]), expected)
