"""Per-example gradients of any module, by running it again for each example under torch.func."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from dpvision.gradients.module_state import parameter_named, with_tensors


def replayed_gradients(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    output_gradient: Tensor,
    examples: int,
) -> dict[str, Tensor]:
    """Return the gradients ``[B, *shape]`` of ``parameters`` (names within the module), float32 or wider.

    ``arguments`` and ``keywords`` are those of a call on ``examples`` examples: every tensor among them (but
    for scalars) holds an equal number of rows for each, next to each other, and is split. Each example is run
    with its own rows as the minibatch. ``output_gradient`` is that of the module's output (the first tensor,
    where it returns several).
    """
    replaced = {name: parameter_named(module, name) for name in parameters}
    flat, spec = torch.utils._pytree.tree_flatten((arguments, dict(keywords)))
    moving = [isinstance(leaf, Tensor) and leaf.ndim > 0 for leaf in flat]
    dtype = next(iter(parameters.values())).dtype
    by_example = [
        # The autocast that let this call mix precisions has ended.
        (leaf.to(dtype) if leaf.is_floating_point() else leaf).unflatten(0, (examples, -1))
        for leaf, moves in zip(flat, moving, strict=True)
        if moves
    ]

    def one_example(inputs: list[Tensor], gradient: Tensor) -> dict[str, Tensor]:
        own = iter(inputs)
        leaves = [next(own) if moves else leaf for leaf, moves in zip(flat, moving, strict=True)]
        args, kwargs = torch.utils._pytree.tree_unflatten(leaves, spec)

        def run(values: dict[str, Tensor]) -> Tensor:
            with with_tensors(module, {replaced[name]: value for name, value in values.items()}):
                return first_tensor(module(*args, **kwargs))

        output, pull_back = vjp(run, dict(parameters))[:2]
        return pull_back(gradient.to(output.dtype))[0]

    gradients = output_gradient.unflatten(0, (examples, -1))
    with torch.enable_grad():  # some operations (LSTM) look at the mode, which is off in a backward pass
        try:
            found = vmap(one_example, randomness="different")(by_example, gradients)
        except RuntimeError:  # an operation without a batching rule
            each = [one_example([leaf[b] for leaf in by_example], gradients[b]) for b in range(examples)]
            found = {name: torch.stack([own[name] for own in each]) for name in parameters}
    return {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in found.items()}


def first_tensor(output: Any) -> Tensor:
    """Return the tensor of a module's output whose gradient is followed. TypeError where there is none."""
    if isinstance(output, Tensor):
        return output
    for leaf in torch.utils._pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise TypeError("the module returns no tensor")
