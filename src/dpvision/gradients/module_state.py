"""A user's module, run with other tensors than its own and then left exactly as it was.

``torch.func.functional_call`` does not do for this: of a module that is registered under two names it leaves
the last tensors in place (pytorch/pytorch#164759).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Restore all modules in the end, whatever happens meanwhile: they have the attributes, parameters,
    buffers, hooks and modes that they had, and the lists, dictionaries and sets among their attributes what
    these held. So what a forward keeps of private images (an activation, a feature map) is not kept.

    The numbers in tensors are not put back; that those in buffers change is refused where a pass is taken.
    """
    saved = []
    for module in model.modules():
        attributes = dict(vars(module))
        contents = [
            (value, value.copy()) for value in attributes.values() if isinstance(value, (dict, list, set))
        ]
        saved.append((module, attributes, contents))
    try:
        yield
    finally:
        for module, attributes, contents in saved:
            vars(module).clear()
            vars(module).update(attributes)
            for value, content in contents:
                value.clear()
                value.extend(content) if isinstance(value, list) else value.update(content)


@contextmanager
def with_tensors(model: nn.Module, values: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """Give the module, and those in it, other tensors for some of their parameters and buffers while this
    lasts, wherever and under however many names these are registered.
    """
    places: list[tuple[dict[str, Any], str, Tensor]] = []
    registries: list[dict[str, Any]] = [
        registered for module in model.modules() for registered in (module._parameters, module._buffers)
    ]
    for registered in registries:
        places += [
            (registered, name, tensor)
            for name, tensor in registered.items()
            if tensor is not None and tensor in values
        ]
    try:
        for registered, name, tensor in places:
            registered[name] = values[tensor]
        yield
    finally:
        for registered, name, tensor in places:
            registered[name] = tensor


def parameter_named(module: nn.Module, name: str) -> Tensor:
    """Return the parameter of that name, or the tensor that is in its place."""
    path, _, local = name.rpartition(".")
    found = module.get_submodule(path)._parameters[local]
    assert found is not None
    return found


def detached(model: nn.Module) -> dict[Tensor, Tensor]:
    """Return, for `with_tensors`, every parameter without its gradient."""
    return {parameter: parameter.detach() for parameter in model.parameters()}


def moved_a_little(model: nn.Module, dtype: torch.dtype | None) -> dict[Tensor, Tensor]:
    """Return, for `with_tensors`, public stand-ins for trials: the parameters moved a little, and copies of
    the buffers, floating-point ones in ``dtype`` (or their own, if None).

    A weight that starts at zero (a last layer, a residual's gain) would hide what lies behind it from every
    trial, until training moves it.
    """
    generator = torch.Generator().manual_seed(0)
    found: dict[Tensor, Tensor] = {}
    for parameter in model.parameters():
        step = 0.1 * max(parameter.shape[1:].numel(), 1) ** -0.5
        moved = parameter.detach().to(dtype, copy=True)
        moved += step * torch.randn(parameter.shape, generator=generator).to(moved)
        found[parameter] = moved.requires_grad_(parameter.requires_grad)
    for buffer in model.buffers():
        found[buffer] = buffer.detach().to(dtype if buffer.is_floating_point() else None, copy=True)
    return found
