"""In which numbers a network computes."""

from __future__ import annotations

from typing import Literal

import torch

from dpvision.privacy.errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(precision: Precision, device: torch.device | str) -> torch.dtype | None:
    """The autocast dtype, or None for float32. "auto": bfloat16 where the hardware multiplies bfloat16
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
