"""Tensors as a file's bytes."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor


def safetensors_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of them, from whatever device; such files hold contiguous tensors that share no
    memory.
    """
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    )
