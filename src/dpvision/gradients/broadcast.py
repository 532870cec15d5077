"""Parameters that a module adds to its rows or multiplies them by: positions, class tokens, scales.

No layer holds such a parameter, and a module that uses one would have to be run again for its gradient, often
the whole network. Instead every example is given a copy of its own, and autograd leaves in the copies what
each example's gradient is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from dpvision.gradients.forward import RowsMoved
from dpvision.gradients.per_example import Instantiated, widened

_IN_PLACE = {"add_", "sub_", "mul_", "div_", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
_ARITHMETIC = _IN_PLACE | {
    *("add", "sub", "mul", "div", "subtract", "multiply", "divide", "true_divide"),
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__"),
}
_REPEATED = {"expand", "repeat"}
"""By how many rows there are: ``token.expand(len(x), -1, -1)``."""


@dataclass(frozen=True)
class _OfParameter:
    """What a tensor is that was made of one parameter alone: of which, and how."""

    name: str
    made: Callable[[Tensor], Tensor]


class Broadcast(TorchFunctionMode):
    """A mode that gives each example its own copy of some parameters, where rows of examples meet them.

    Args:
        parameters: the tensors in the modules, by the parameters' names.
        batch: [B, K].
        rows: the rows per view that each of them met in the trial, or None in the trial itself.

    Attributes:
        met: the rows per view that each parameter met, of those used in ways that are covered.
        others: the names of those that were used in another way.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], batch: torch.Size, rows: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.met: dict[str, set[float]] = {name: set() for name in parameters}
        self.others: set[str] = set()
        self._batch, self._rows = batch, rows
        self._copies: dict[str, Tensor] = {}
        self._parameters = parameters
        # By id, for a tensor's own equality compares numbers. All are kept, so that no id is used again.
        self._made_of = {id(p): _OfParameter(name, lambda p: p) for name, p in parameters.items()}
        self._kept: list[Tensor] = list(parameters.values())

    def gradients(self) -> dict[str, Instantiated]:
        """Return the gradients ``[B, *shape]`` after the backward pass, of those that have one."""
        return {
            name: Instantiated(widened(copies.grad))
            for name, copies in self._copies.items()
            if copies.grad is not None
        }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = {id(tensor): self._made_of[id(tensor)] for tensor in tensors if id(tensor) in self._made_of}
        if not ours:
            return func(*args, **kwargs)
        called = getattr(func, "__name__", "")
        theirs = [tensor for tensor in tensors if id(tensor) not in ours]
        if called in _REPEATED and len(ours) == 1 and not theirs:
            repeated = self._repeated(args[0], *args[1:])
            if repeated is not None:
                return repeated
        is_changed = called in _IN_PLACE and id(args[0]) in ours
        if called in _ARITHMETIC and not is_changed and len(ours) == len(theirs) == 1:
            copies = self._for_rows(next(tensor for tensor in tensors if id(tensor) in ours), *theirs)
            if copies is not None:
                args, kwargs = tree_map_only(
                    Tensor, lambda leaf: copies if id(leaf) in ours else leaf, (args, kwargs)
                )
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self._follow(func, args, kwargs, ours, bool(theirs), result)
        return result

    def _follow(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        ours: Mapping[int, _OfParameter],
        meets_others: bool,
        result: Any,
    ) -> None:
        """Note what was made of one parameter alone, or that it was used in another way."""
        if meets_others or len(ours) > 1 or not isinstance(result, Tensor) or id(result) in self._made_of:
            self.others |= {made.name for made in ours.values()}
            if self._rows is not None:  # no copy was made: its gradient would be lost
                raise RowsMoved(
                    f"network: parameter '{min(self.others)}' is used in another way than in the trial on "
                    "random inputs, so that its gradient is lost; let it meet as many rows for each example"
                )
            return
        (before,) = ours.values()

        def made(parameter: Tensor) -> Tensor:
            value = before.made(parameter)
            own_args, own_kwargs = tree_map_only(Tensor, lambda leaf: value, (args, kwargs))
            found: Tensor = func(*own_args, **own_kwargs)
            return found

        self._made_of[id(result)] = _OfParameter(before.name, made)
        self._kept.append(result)

    def _repeated(self, token: Tensor, *sizes: Any) -> Tensor | None:
        """Return a copy for each row in the place of ``token.expand(*sizes)`` or ``token.repeat(*sizes)``."""
        sizes = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
        whole = all(size in (-1, 1, own) for size, own in zip(sizes[1:], token.shape[1:], strict=False))
        if len(sizes) != token.ndim or token.shape[0] != 1 or not whole or sizes[0] % self._batch[0]:
            return None
        return self._copied(token, sizes[0], token.ndim)

    def _for_rows(self, tensor: Tensor, rows: Tensor) -> Tensor | None:
        """Return a copy of ``tensor`` for each row of ``rows`` ``[N, …]``; None where it is not broadcast
        over these.
        """
        if rows.ndim == 0 or tensor.ndim > rows.ndim or len(rows) % self._batch[0]:
            return None
        if tensor.ndim == rows.ndim and tensor.shape[0] != 1:
            return None
        return self._copied(tensor, len(rows), rows.ndim)

    def _copied(self, tensor: Tensor, count: int, ndim: int) -> Tensor:
        """Return ``[count, …]`` of ``ndim`` dimensions: for each row the copy of its example."""
        made, examples = self._made_of[id(tensor)], self._batch[0]
        per_view = count / self._batch.numel()
        self.met[made.name].add(per_view)
        if self._rows is not None and self._rows.get(made.name) != per_view:
            raise RowsMoved(
                f"network: parameter '{made.name}' meets {count} rows, where the trial on random inputs says "
                f"{self._rows.get(made.name)} for each view, so that which row is whose is not known"
            )
        if made.name not in self._copies:
            parameter = widened(self._parameters[made.name].detach())  # so is the sum over rows
            self._copies[made.name] = parameter.expand(examples, *parameter.shape).requires_grad_()
        copies = self._copies[made.name].to(self._parameters[made.name].dtype)
        copies = copies if tensor is self._parameters[made.name] else vmap(made.made)(copies)
        if tensor.ndim == ndim:
            copies = copies.squeeze(1)  # the dimension of one that all rows share
        ones = [1] * (ndim - copies.ndim)
        copies = copies.reshape(examples, 1, *ones, *copies.shape[1:])
        return copies.expand(-1, count // examples, *copies.shape[2:]).flatten(0, 1)
