"""Dropout whose draws are each example's own.

PyTorch draws from a global generator, in the order of the batch: with one example less, all others would drop
other units, and whoever knows the seed would know which. Here an example's units are dropped by its own
numbers, which depend on nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from dpvision.privacy.errors import InputError

_UNITS = nn.Dropout
_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Draws(Protocol):
    """Random numbers of each of B examples: see :class:`dpvision.privacy.by_example.ExampleDraws`."""

    def __len__(self) -> int: ...

    def __getitem__(self, examples: Tensor) -> Draws:
        """Return the numbers of some of the examples, from their beginning."""

    def uniform(self, count: int) -> Tensor:
        """Return the next ``count`` numbers of each example, ``[B, count]`` in [0, 1)."""


def active_dropout(model: nn.Module) -> list[tuple[str, nn.modules.dropout._DropoutNd]]:
    """Return the dropout layers that drop something, by their paths."""
    return [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0
    ]


def refuse_unknown_dropout(model: nn.Module) -> None:
    """Raise InputError for a kind of dropout whose draws cannot be made here."""
    for path, module in active_dropout(model):
        if type(module) not in (_UNITS, *_CHANNELS):
            raise InputError(
                f"network: layer '{path}' is a {type(module).__name__}, whose random numbers cannot be drawn "
                "for each example; use nn.Dropout, or set its p to 0"
            )


@contextmanager
def dropout_drawn(model: nn.Module, draws: Draws | None) -> Iterator[None]:
    """Let dropout layers drop by these draws (or nothing at all, if None), while this lasts: one layer after
    the other as they are called, and nothing is drawn from a global generator.

    To be used within :func:`dpvision.gradients.module_state.left_as_it_was`. Every layer's input must hold as
    many rows for each example, those of the first example first.
    """
    with ExitStack() as stack:
        for _, module in active_dropout(model):
            module.training = False
            if draws is not None:
                stack.callback(module.register_forward_hook(_dropping(draws)).remove)
        yield


def _dropping(draws: Draws) -> Callable[[Any, Any, Tensor], Tensor]:
    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        whole = isinstance(module, _UNITS)
        shape = output.shape if whole else (*output.shape[:2], *(1 for _ in output.shape[2:]))
        count = math.prod(shape) // len(draws)
        kept = draws.uniform(count).view(shape) >= module.p
        scale = 1 / (1 - module.p) if module.p < 1 else 0.0
        return output * kept.to(output.device, output.dtype).mul_(scale)

    return hook
