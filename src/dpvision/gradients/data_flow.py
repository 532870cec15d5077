"""Find out whether a network decides by the values of a batch what it does with its rows.

Layers that work on each row of a batch by itself keep the rows where they are, for all values. A network that
sends rows here or there by what they hold (a mixture of experts), or takes one branch or the other (``if
x.max() > 1``), may treat random rows in one way, on which it is tried, and private ones in another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations that move, choose or count by the values of an argument of one of these names…
_SELECTORS = ("index", "indices", "mask", "repeats")
_MOVING = {
    *("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"),
    *("index_select", "index_add", "index_add_", "index_copy", "index_copy_", "index_fill", "index_fill_"),
    *("index_reduce", "index_reduce_", "gather", "scatter", "scatter_", "scatter_add", "scatter_add_"),
    *("scatter_reduce", "scatter_reduce_", "take", "put", "put_", "masked_select", "masked_scatter"),
    *("masked_scatter_", "embedding", "embedding_bag", "_embedding_bag", "repeat_interleave"),
}
# …or of any, which hand values to Python or make a tensor as large as they say.
_READING = {
    *("_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "nonzero_static", "argwhere"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "multinomial"),
}
# Methods that read a tensor without an operation.
_METHODS = {"tolist", "numpy", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage"}


def decides_by_values(model: nn.Module, rows: Tensor) -> bool:
    """Check whether the forward on ``rows`` ``[N, …]`` moves rows, or branches, by values computed from them.

    What is moved by fixed indices, or looked up in a table by tokens, does not count. Where this is False,
    the operations of a forward are the same for all rows of this shape, and none moves a row by a value.
    """
    flow = _Flow(rows)
    with _Reads(flow), flow:
        model(rows)
    return flow.decided


class _Flow(TorchDispatchMode):
    """Follows all tensors that were made of the rows, by the memory that they share."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch imports its compiler, which takes seconds

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.decided = False
        self._seen: set[int] = set()
        self._kept: list[Tensor] = []  # so that no memory is used again
        self._mark(rows)

    def comes_of_rows(self, value: Any) -> bool:
        """Say whether any tensor in ``value`` was computed from the rows."""
        return any(isinstance(leaf, Tensor) and _memory(leaf) in self._seen for leaf in tree_leaves(value))

    def _mark(self, value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                self._seen.add(_memory(leaf))
                self._kept.append(leaf)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        out = func(*args, **kwargs)
        if self.comes_of_rows((args, kwargs)):
            self.decided |= self._decides(func.overloadpacket.__name__, given)
            self._mark(out)
            written = (a.name for a in func._schema.arguments if a.alias_info and a.alias_info.is_write)
            self._mark([given.get(name) for name in written])
        return out

    def _decides(self, name: str, given: dict[str, Any]) -> bool:
        if name in _READING:
            return True
        chosen_by = [value for key, value in given.items() if key in _SELECTORS]
        chosen_from = [value for key, value in given.items() if key not in _SELECTORS]
        return name in _MOVING and self.comes_of_rows(chosen_by) and self.comes_of_rows(chosen_from)


def _memory(tensor: Tensor) -> int:
    """Return a key that is the same for tensors that share memory."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


class _Reads(TorchFunctionMode):
    """A mode that sees methods that hand values to Python."""

    def __init__(self, flow: _Flow) -> None:
        super().__init__()
        self._flow = flow

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in _METHODS and self._flow.comes_of_rows(args):
            self._flow.decided = True
        return func(*args, **(kwargs or {}))
