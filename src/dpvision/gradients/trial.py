"""Make trial inputs for networks before any private example is read: other weights, and random examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpvision.gradients.dropout import dropout_drawn
from dpvision.gradients.module_state import left_as_it_was, moved_a_little, with_tensors


@contextmanager
def as_a_twin(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Give the model other weights while this lasts, and let it drop nothing, so that two passes agree."""
    with (
        left_as_it_was(model),
        dropout_drawn(model, None),
        with_tensors(model, moved_a_little(model, dtype)),
        torch.enable_grad(),
    ):
        yield


def random_like(
    tensor: Tensor, leading: tuple[int, int], dtype: torch.dtype, low: int = 0, high: int = 2
) -> Tensor:
    """Make public stand-ins for a tensor ``[B, K, …]``: its shape and kind, none of its values."""
    generator = torch.Generator().manual_seed(0)
    shape = (*leading, *tensor.shape[2:])
    if tensor.is_floating_point():
        found = torch.rand(shape, generator=generator, dtype=torch.float64)
        return found.to(tensor.device, dtype)
    return torch.randint(low, high, shape, generator=generator).to(tensor.device, tensor.dtype)


def tolerance(dtype: torch.dtype, scale: float = 1.0) -> dict[str, float]:
    """Say how far results may be apart that are the same but for rounding."""
    return (
        {"rtol": 1e-6, "atol": 1e-9 * scale}
        if dtype == torch.float64
        else {"rtol": 1e-3, "atol": 1e-4 * scale}
    )
