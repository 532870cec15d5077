"""One forward and backward pass over a chunk, in which forward hooks turn each layer call into per-example
gradients.

The user's module is not wrapped: it runs on detached parameters, so that autograd computes no summed weight
gradients, and is left as it was when the pass ends (module_state.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dpvision.gradients.broadcast import Broadcast
from dpvision.gradients.dropout import Draws, dropout_drawn
from dpvision.gradients.forward import Loss, RowsMoved, example_losses
from dpvision.gradients.group_norm import FUSED, group_norm
from dpvision.gradients.module_state import (
    detached,
    left_as_it_was,
    parameter_named,
    with_tensors,
)
from dpvision.gradients.notices import quiet_vmap
from dpvision.gradients.ownership import Ownership, leaves_with_rows
from dpvision.gradients.per_example import Instantiated, PerExample, widened
from dpvision.gradients.replay import first_tensor, replayed_gradients
from dpvision.gradients.rules import RULES
from dpvision.gradients.ways import Ways
from dpvision.privacy.errors import InputError


@dataclass
class Pass:
    """The result of one pass: per-example gradients by parameter name, and losses ``[B]`` (each the mean over
    the K views).
    """

    losses: Tensor
    gradients: dict[str, PerExample] = field(default_factory=dict)


class _Anchor(torch.autograd.Function):
    """A function that copies a tensor to one that requires gradients: autograd must reach a first layer whose
    parameters are detached.
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
    ownership: Ownership,
    views: Tensor,
    targets: Tensor,
    autocast: torch.dtype | None = None,
    dropout: Draws | None = None,
    ways: Ways | None = None,
) -> Pass:
    """Compute per-example gradients of every trainable parameter.

    views: ``[B, K, …]``; targets: ``[B, K, …]``. ``autocast``: the lower precision of forward and backward,
        or None. ``dropout``: what dropout layers drop by, or None for no dropout. ``ways``: those of the
        layers, by default by their sizes.

    Raises:
        CannotRun: the network or the loss fails.
        InputError: a buffer of the network was changed.
        RowsMoved: of several examples, the rows of one cannot be told from those of another.
    """
    with left_as_it_was(model), dropout_drawn(model, dropout), unchanged_buffers(model), quiet_vmap():
        if ownership.one_by_one:
            return _by_autograd(model, loss, views, targets, autocast)
        trainable = {name: widened(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
        found: dict[str, PerExample] = {}
        hooks = _hooks(model, ownership, views.shape[:2], found, ways or Ways())
        values = detached(model)
        parameters = {name: values[p] for name, p in model.named_parameters() if name in ownership.broadcast}
        copies = Broadcast(parameters, views.shape[:2], ownership.broadcast)
        with torch.enable_grad(), hooks:
            with with_tensors(model, values), copies if parameters else nullcontext():
                losses = example_losses(model, loss, views, targets, autocast)
            if losses.requires_grad:
                losses.sum().backward()
        found |= copies.gradients()
        nothing = {
            name: Instantiated(values.new_zeros(len(views), *values.shape))
            for name, values in trainable.items()
            if name not in found
        }
    return Pass(losses.detach(), {name: (found | nothing)[name] for name in trainable})


def _by_autograd(
    model: nn.Module, loss: Loss, views: Tensor, targets: Tensor, autocast: torch.dtype | None
) -> Pass:
    """Compute the gradients of a single example, whose rows are a minibatch of their own."""
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    with torch.enable_grad():
        losses = example_losses(model, loss, views, targets, autocast)
        gradients = (
            torch.autograd.grad(losses.sum(), parameters, allow_unused=True, materialize_grads=True)
            if losses.requires_grad
            else [torch.zeros_like(parameter) for parameter in parameters]
        )
    each = {
        name: Instantiated(widened(gradient.to_dense()).detach().unsqueeze(0))
        for name, gradient in zip(names, gradients, strict=True)
    }
    return Pass(losses.detach(), dict(each))


@contextmanager
def _hooks(
    model: nn.Module, ownership: Ownership, batch: torch.Size, found: dict[str, PerExample], ways: Ways
) -> Iterator[None]:
    """Send the gradients of ``batch`` = [B, K] views to ``found``, as a backward pass has them, while this
    lasts. A module that is being replayed calls no hook.
    """
    anchor = torch.zeros((), device=_device(model), requires_grad=True)
    with ExitStack() as stack:
        for path, rows in ownership.rows.items():
            module = model.get_submodule(path)
            owned = ownership.owners.get(path, {})
            call = _OfCall(module, ownership, owned, rows, batch, found, ways, anchor)
            if type(module) in FUSED and owned and "forward" not in vars(module):
                call.fused = True
                module.forward = call.run_fused  # until it is left as it was
            stack.callback(module.register_forward_hook(call, with_kwargs=True).remove)
        yield


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@dataclass
class _OfCall:
    """The forward hook of a module that owns parameters, or drops units: see :class:`Ownership`.

    fused: whether the gradients come of a backward pass that is put in the place of the module's own.
    """

    module: nn.Module
    ownership: Ownership
    owned: Mapping[str, str]
    rows: float
    batch: torch.Size
    found: dict[str, PerExample]
    ways: Ways
    anchor: Tensor
    fused: bool = False

    def run_fused(self, input: Tensor) -> Tensor:
        """Run in the place of the module's forward."""
        if torch._C._functorch.maybe_current_level() is not None or not torch.is_grad_enabled():
            return nn.GroupNorm.forward(cast(nn.GroupNorm, self.module), input)

        def take(of_weight: Tensor, of_bias: Tensor) -> None:
            found = {"weight": Instantiated(of_weight), "bias": Instantiated(of_bias)}
            self._add({name: found[name] for name in self.owned})

        layer = cast(nn.GroupNorm, self.module)
        return group_norm(layer, input, self.anchor, self.batch[0], self.ways, take)

    def __call__(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if torch._C._functorch.maybe_current_level() is not None:  # a replay
            return None
        if self.batch[0] > 1:
            self._check_rows(args, kwargs, output)
        if not torch.is_grad_enabled() or not self.owned:  # the forward asks for no gradient of this call
            return None
        if self.fused:
            return None
        followed = first_tensor(output)
        anchored = followed if followed.requires_grad else _Anchor.apply(followed, self.anchor)
        args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
        versions = [leaf._version for leaf in args if isinstance(leaf, Tensor)]

        def on_gradient(gradient: Tensor) -> None:
            if versions != [leaf._version for leaf in args if isinstance(leaf, Tensor)]:
                raise InputError(
                    f"network: the input of a {type(self.module).__name__} layer is modified in place after "
                    "the layer has read it, so that its gradient is lost; set inplace=False where that is"
                )
            with self.ways.in_use():  # of this thread: on a GPU autograd has threads of its own
                self._add(
                    layer_gradients(
                        self.module, self.owned, self.ownership, args, kwargs, gradient, self.batch[0]
                    )
                )

        anchored.register_hook(on_gradient)
        if anchored is followed:
            return None
        return tree_map_only(Tensor, lambda leaf: anchored if leaf is followed else leaf, output)

    def _check_rows(self, args: Any, kwargs: Any, output: Any) -> None:
        expected = self.rows * self.batch.numel()
        found = [len(leaf) for leaf in leaves_with_rows(args, kwargs, output)]
        if any(abs(rows - expected) > 0.5 for rows in found):
            raise RowsMoved(
                f"network: a {type(self.module).__name__} layer was called on {found} rows, where the trial "
                f"on random inputs says {expected:g}, so that which row is whose is not known; let every "
                "layer treat as many rows for each example"
            )

    def _add(self, computed: Mapping[str, PerExample]) -> None:
        for local, values in computed.items():
            name = self.owned[local]
            if name in self.found:
                values = Instantiated(self.found[name].instantiate() + values.instantiate())
            self.found[name] = values


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Raise InputError if the numbers in a buffer were changed meanwhile: they are private."""
    versions = {name: buffer._version for name, buffer in model.named_buffers()}
    yield
    for name, buffer in model.named_buffers():
        if versions.get(name) != buffer._version:
            raise InputError(
                f"network: the forward pass changes buffer '{name}', which would carry private data out of "
                "the account; freeze the layer or switch its statistics off"
            )


def layer_gradients(
    module: nn.Module,
    owned: Mapping[str, str],
    ownership: Ownership,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    gradient: Tensor,
    examples: int,
) -> dict[str, PerExample]:
    """Return the gradients of ``module``'s own parameters for one call: by its rule, else by replaying it."""
    layer_rule = RULES.get(type(module))
    if layer_rule is not None and len(args) == 1 and not kwargs:
        ghost = all(name in ownership.used_once for name in owned.values())
        by_rule = layer_rule(module, args[0], gradient, examples, ghost)
        if by_rule is not None and owned.keys() <= by_rule.keys():
            return {name: by_rule[name] for name in owned}
    parameters = {name: parameter_named(module, name).detach() for name in owned}
    replayed = replayed_gradients(module, parameters, args, kwargs, gradient, examples)
    return {name: Instantiated(values) for name, values in replayed.items()}
