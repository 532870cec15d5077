"""Check that what was saved of a training fits what it is loaded into, to the last shape."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_tensors(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless both have the same names, shapes and types, and what was saved is finite."""
    for name in saved.keys() ^ expected.keys():
        raise ValueError(f"{name} is {'not expected' if name in saved else 'missing'}")
    for name, tensor in expected.items():
        found = saved[name]
        if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(
                f"{name} is {found.dtype} {list(found.shape)}, not {tensor.dtype} {list(tensor.shape)}"
            )
        check_finite(name, found)


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError where a number is not finite."""
    if not tensor.isfinite().all():
        raise ValueError(f"{name} is not finite")


def whole_number(state: Mapping[str, Tensor], name: str, largest: int) -> int:
    """Return the number of this name. KeyError or ValueError unless it is there and from 0 to ``largest``."""
    found = state[name]
    if found.dim() or found.is_floating_point() or not 0 <= found <= largest:
        raise ValueError(f"{name} is not a whole number from 0 to {largest}")
    return int(found)
