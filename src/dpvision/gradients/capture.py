"""One forward and backward pass over a chunk, in which forward hooks turn each layer call into per-example
gradients.

The user's module is not wrapped or changed: it runs through ``torch.func.functional_call`` on detached
parameters, so that autograd computes no summed weight gradients, and the hooks are gone when the pass ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dpvision.gradients.per_example import Instantiated, PerExample, widened
from dpvision.gradients.replay import first_tensor, replayed_gradients
from dpvision.gradients.rules import RULES
from dpvision.privacy.errors import InputError

# Maps logits [N, classes] and targets [N, …] to one loss per row, [N]: e.g. cross-entropy with
# reduction="none".
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Plan:
    """Who computes the gradient of which parameter.

    owners: module path → {parameter's name in that module: its name in the model}. A module with a rule and
        only parameters of its own uses the rule; any other is replayed.
    used_once: names of the parameters that enter a pass once, whose gradients may stay factors.
    """

    owners: dict[str, dict[str, str]]
    used_once: frozenset[str]


@dataclass
class Pass:
    """What one pass leaves: per-example gradients by parameter name, and ``[B]`` losses (each the mean over K
    views).
    """

    losses: Tensor
    gradients: dict[str, PerExample] = field(default_factory=dict)


class _Anchor(torch.autograd.Function):
    """Copies a tensor to one that requires gradients: autograd must reach a first layer whose parameters are
    detached.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, anchor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


def per_example_gradients(
    model: nn.Module,
    loss: Loss,
    plan: Plan,
    views: Tensor,
    targets: Tensor,
    autocast: torch.dtype | None = None,
) -> Pass:
    """Per-example gradients of every trainable parameter.

    views: ``[B, K, …]``; targets: ``[B, K, …]``. ``autocast``: the lower precision of forward and backward,
        or None.
    """
    examples, per_view = views.shape[0], views.shape[1]
    rows = _laid_out_channels_last(views.flatten(0, 1))
    anchor = torch.zeros((), device=views.device, requires_grad=True)
    detached = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found: dict[str, PerExample] = {}

    def add(name: str, gradient: PerExample) -> None:
        if name in found:
            gradient = Instantiated(found[name].instantiate() + gradient.instantiate())
        found[name] = gradient

    def on_call(module: nn.Module, owned: dict[str, str]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not torch.is_grad_enabled():  # the forward asks for no gradient of this call
                return None
            followed = first_tensor(output)
            anchored = followed if followed.requires_grad else _Anchor.apply(followed, anchor)
            args, kwargs = torch.utils._pytree.tree_map_only(Tensor, Tensor.detach, (args, kwargs))
            versions = [leaf._version for leaf in args if isinstance(leaf, Tensor)]

            def on_gradient(gradient: Tensor) -> None:
                if versions != [leaf._version for leaf in args if isinstance(leaf, Tensor)]:
                    raise InputError(
                        f"network: the input of a {type(module).__name__} layer is modified in place after "
                        "the layer has read it, so that its gradient is lost; set inplace=False where that is"
                    )
                computed = layer_gradients(module, owned, plan, args, kwargs, gradient, examples)
                for name, values in computed.items():
                    add(owned[name], values)

            anchored.register_hook(on_gradient)
            if anchored is followed:
                return None
            return torch.utils._pytree.tree_map(lambda leaf: anchored if leaf is followed else leaf, output)

        return hook

    with torch.enable_grad(), _hooks(model, plan, on_call):
        with torch.autocast(views.device.type, dtype=autocast, enabled=autocast is not None):
            logits = functional_call(model, detached, (rows,), tie_weights=True)
        losses = loss(widened(logits), targets.flatten(0, 1))
        if losses.shape != (len(rows),):
            raise InputError(
                f"loss: one value per view is needed, shape [{len(rows)}], not {list(losses.shape)}; "
                "use reduction='none'"
            )
        by_example = losses.view(examples, per_view).mean(dim=1)
        if by_example.requires_grad:
            by_example.sum().backward()
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    gradients = {
        name: found[name]
        if name in found
        else Instantiated(widened(parameter.detach()).new_zeros(examples, *parameter.shape))
        for name, parameter in trainable
    }
    return Pass(by_example.detach(), gradients)


def _laid_out_channels_last(rows: Tensor) -> Tensor:
    """Images ``[N, C, H, W]`` with channels last in memory, in which most layers are faster; others as they
    are.
    """
    if rows.ndim != 4:
        return rows
    if rows.shape[1] > 1:
        return rows.contiguous(memory_format=torch.channels_last)
    # A single channel is last and first at once. Only the strides say which is meant, and contiguous() would
    # leave them at "first", also for all that the layers make of it.
    height, width = rows.shape[2:]
    return rows.contiguous().as_strided(rows.shape, (height * width, 1, width, 1))


def layer_gradients(
    module: nn.Module,
    owned: dict[str, str],
    plan: Plan,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    gradient: Tensor,
    examples: int,
) -> dict[str, PerExample]:
    """The per-example gradients of the parameters that ``module`` owns, for one call: by its rule, else by
    replaying it.
    """
    layer_rule = RULES.get(type(module))
    if layer_rule is not None and len(args) == 1 and not kwargs and not any("." in name for name in owned):
        ghost = all(name in plan.used_once for name in owned.values())
        by_rule = layer_rule(module, args[0], gradient, examples, ghost)
        if by_rule is not None:
            return {name: by_rule[name] for name in owned}
    parameters = {name: module.get_parameter(name).detach() for name in owned}
    replayed = replayed_gradients(module, parameters, args, kwargs, gradient, examples)
    return {name: Instantiated(values) for name, values in replayed.items()}


@contextmanager
def _hooks(
    model: nn.Module, plan: Plan, on_call: Callable[[nn.Module, dict[str, str]], Callable[..., Any]]
) -> Iterator[None]:
    """Forward hooks on the owners for the length of the pass; a module that is being replayed calls none."""
    handles = []
    try:
        for path, owned in plan.owners.items():
            module = model.get_submodule(path)
            handles.append(
                module.register_forward_hook(_unless_replaying(on_call(module, owned)), with_kwargs=True)
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _unless_replaying(hook: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        replaying = torch._C._functorch.maybe_current_level() is not None
        return None if replaying else hook(module, args, kwargs, output)

    return guarded
