"""The precision in which a network computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from dpvision.privacy.errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(precision: Precision, device: torch.device | str) -> torch.dtype | None:
    """Return the autocast dtype, or None for float32. "auto": bfloat16 where the hardware multiplies bfloat16
    matrices (AMX, GPUs).

    Raises:
        InputError: for another precision.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise InputError(f"precision: must be auto, float32 or bfloat16, not {precision!r}")
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if precision == "bfloat16" or (precision == "auto" and native) else None


def fast_precision(device: torch.device | str) -> torch.dtype | None:
    """Return the autocast dtype in which a whole batch is learned from soonest: bfloat16 where
    :func:`resolve_precision` takes it, and on CPUs that have vector instructions for it (AVX-512 BF16), with
    which a step of a ResNet-9 takes half of the time.
    """
    vectors = torch.device(device).type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if vectors else resolve_precision("auto", device)


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute products and convolutions of float32 in float32 while this lasts, whatever the user allows
    elsewhere.

    PyTorch may take them in TensorFloat-32 or bfloat16 instead: on a GPU convolutions do so unless told
    otherwise, on a CPU oneDNN does where it is allowed to. All that says so is set, and set back.
    """
    operations = _operations()
    chosen = [(operation, operation.fp32_precision) for operation in operations]
    matmul = matmul_precision()
    torch.set_float32_matmul_precision("highest")
    allowed = None if operations else torch.backends.cudnn.allow_tf32
    if not operations:
        torch.backends.cudnn.allow_tf32 = False
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        yield
    finally:
        if allowed is not None:
            torch.backends.cudnn.allow_tf32 = allowed
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        for operation, precision in chosen:
            operation.fp32_precision = precision


def _operations() -> list[Any]:
    """List what has a precision of its own: none before PyTorch 2.9, with one switch for all of cuDNN."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    if not hasattr(cudnn, "conv"):
        return []
    return [cuda, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]


def matmul_precision() -> str | None:
    """Return the one setting for all matrix products, or None where they were set apart."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None
