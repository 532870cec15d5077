"""What PyTorch warns of within a pass, where whoever gave the network has no part in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def quiet_vmap() -> Iterator[None]:
    """Let vmap take operations that it has no rule for (attention, LSTM) one example after the other, without
    asking for an issue to be filed.

    The switch is torch.func's own, of this one notice. It holds for all threads: another thread's vmap is
    quiet meanwhile too.
    """
    functorch: Any = torch._C._functorch
    functorch._set_vmap_fallback_warning_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_warning_enabled(True)


@contextmanager
def rms_norms_in_full(model: nn.Module) -> Iterator[None]:
    """Give RMSNorm layers their input in the type of their weights while this lasts, as autocast does with
    LayerNorm: else PyTorch has no kernel for the two types, and warns of that.
    """

    def widen(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(leaf.to(layer.weight.dtype) if isinstance(leaf, Tensor) else leaf for leaf in args)

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.RMSNorm) and module.weight is not None:
                stack.callback(module.register_forward_pre_hook(widen).remove)
        yield
