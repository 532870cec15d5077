"""Before any private example is read: who computes which gradient, checked on random inputs against plain
autograd.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dpvision.gradients.capture import Loss, Plan, per_example_gradients
from dpvision.gradients.reference import reference_gradients
from dpvision.gradients.rules import RULES
from dpvision.privacy.errors import InputError


def refuse_cross_example_layers(model: nn.Module) -> None:
    """InputError, with the layer's path and the fix, when a layer is known to mix examples or to keep
    statistics of them.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm and the lazy ones too
            raise InputError(
                f"network: layer '{path}' is a {type(module).__name__}, which mixes the examples of a batch, "
                "so that no per-example gradient exists; use nn.GroupNorm, which normalises every example by "
                "itself"
            )
        if getattr(module, "track_running_stats", False):
            raise InputError(
                f"network: layer '{path}' keeps running statistics of private examples outside any "
                "mechanism; set track_running_stats=False"
            )
        if getattr(module, "max_norm", None) is not None:
            raise InputError(
                f"network: layer '{path}' rescales the weights that private examples look up, outside any "
                "mechanism; set max_norm=None"
            )


def make_plan(model: nn.Module, loss: Loss, views: Tensor, targets: Tensor) -> Plan:
    """Assign every trainable parameter to an owner, and prove the plan on a float64 copy of the model and
    random inputs.

    Only shapes and dtypes of ``views`` ``[B, K, …]`` and ``targets`` ``[B, K, …]`` are used. A parameter
    whose gradient an owner gets wrong (a weight used outside its layer's forward, say) is given to the whole
    model, which is replayed.

    Raises InputError when layers mix examples, when a forward changes buffers, or when gradients cannot be
    had.
    """
    refuse_cross_example_layers(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("network: no parameter requires a gradient, so that there is nothing to train")
    twin = _away_from_zero(copy.deepcopy(model).double())
    for module in twin.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()  # two passes must agree
    inputs, labels = _random_like(views, (2, 2)), _random_like(targets, (2, 2), low=0, high=1)
    _refuse_leaks(twin, inputs)
    try:
        expected = reference_gradients(twin, loss, inputs, labels)
    except RuntimeError as error:
        raise InputError(
            f"network: its backward pass fails ({str(error).splitlines()[0]}); where an operation modifies a "
            "tensor in place, set inplace=False"
        ) from error
    plan = _assign(twin, inputs.flatten(0, 1))
    wrong = _wrong(twin, loss, plan, inputs, labels, expected)
    if wrong:
        owners = {
            path: {n: full for n, full in owned.items() if full not in wrong}
            for path, owned in plan.owners.items()
        }
        owners[""] = owners.get("", {}) | {name: name for name in wrong}
        plan = Plan({path: owned for path, owned in owners.items() if owned}, plan.used_once - wrong)
        still_wrong = _wrong(twin, loss, plan, inputs, labels, expected)
        if still_wrong:
            raise InputError(
                f"network: the per-example gradient of parameter '{min(still_wrong)}' cannot be computed: "
                "it differs from that of a minibatch of one; does the forward mix examples or draw "
                "random numbers?"
            )
    _refuse_replayed_dropout(model, plan)
    return plan


def _refuse_replayed_dropout(model: nn.Module, plan: Plan) -> None:
    for path, owned in plan.owners.items():
        module = model.get_submodule(path)
        if type(module) not in RULES and any(
            isinstance(inner, nn.modules.dropout._DropoutNd) and inner.training and inner.p > 0
            for inner in module.modules()
        ):
            raise InputError(
                f"network: to get the gradient of parameter '{min(owned.values())}', its module is run "
                "again, and would drop other units than before; set p=0 in the dropout layers of that module"
            )


def _away_from_zero(twin: nn.Module) -> nn.Module:
    """Move the weights a little: one that starts at zero (a last layer, a residual's gain) would hide what
    lies behind it from every check, until training moves it.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            step = 0.1 * max(parameter.shape[1:].numel(), 1) ** -0.5
            parameter.add_(step * torch.randn(parameter.shape, generator=generator).to(parameter))
    return twin


def _random_like(tensor: Tensor, leading: tuple[int, int], low: int = 0, high: int = 2) -> Tensor:
    """Public stand-ins for a tensor ``[B, K, …]``: its shape and kind, none of its values."""
    generator = torch.Generator().manual_seed(0)
    shape = (*leading, *tensor.shape[2:])
    if tensor.is_floating_point():
        found = torch.rand(shape, generator=generator, dtype=torch.float64)
        return found.to(tensor.device)
    return torch.randint(low, high, shape, generator=generator).to(tensor.device, tensor.dtype)


def _refuse_leaks(twin: nn.Module, inputs: Tensor) -> None:
    before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
    with torch.no_grad():
        try:
            together, again = twin(inputs.flatten(0, 1)), twin(inputs.flatten(0, 1))
            alone = torch.cat([twin(views) for views in inputs])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise InputError(
                f"network: its forward fails on an input of shape {list(inputs.flatten(0, 1).shape)} "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); does it fit the image size?"
            ) from error
    for name, buffer in twin.named_buffers():
        if not torch.equal(before[name], buffer):
            raise InputError(
                f"network: the forward pass changes buffer '{name}', which would carry private data out of "
                "the account; freeze the layer or switch its statistics off"
            )
    if not torch.allclose(together, again, rtol=1e-6, atol=1e-9, equal_nan=True):
        raise InputError(
            "network: its forward draws random numbers outside nn.Dropout layers (as the dropout of "
            "nn.MultiheadAttention does), so that its gradients cannot be checked; set that dropout to 0"
        )
    if not torch.allclose(together, alone, rtol=1e-6, atol=1e-9, equal_nan=True):
        raise InputError(
            "network: the output for one example changes with the other examples of the batch, so that no "
            "per-example gradient exists; look for a layer that normalises or attends over the batch"
        )


def _assign(twin: nn.Module, rows: Tensor) -> Plan:
    """A parameter belongs to the module that holds it if its calls can be split by example, else to the
    nearest module above whose calls can: all tensors that go in, and the one that comes out, have the same
    number of rows for every view. One shared by the examples may have as many rows as a batch by accident, so
    two batch sizes are tried.
    """
    calls: Counter[str] = Counter()
    rows_per_view: defaultdict[str, set[float]] = defaultdict(set)
    paths = {module: path for path, module in twin.named_modules()}
    sizes = (len(rows), len(rows) - 1)

    def note(size: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            path = paths[module]
            calls[path] += size == sizes[0]
            outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)][:1]
            for leaf in tree_leaves((args, kwargs)) + outputs:
                if isinstance(leaf, Tensor) and leaf.ndim > 0:
                    rows_per_view[path].add(len(leaf) / size)

        return hook

    for size in sizes:
        handles = [module.register_forward_hook(note(size), with_kwargs=True) for module in twin.modules()]
        with torch.no_grad():
            twin(rows[:size])
        for handle in handles:
            handle.remove()
    splits = {path for path, found in rows_per_view.items() if len(found) == 1} | {""}

    names = {parameter: name for name, parameter in twin.named_parameters() if parameter.requires_grad}
    owners: dict[str, dict[str, str]] = {}
    uses: Counter[str] = Counter()
    for path, module in twin.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if parameter not in names:
                continue
            owner, name = path, local
            while owner not in splits:
                owner, _, last = owner.rpartition(".")
                name = f"{last}.{name}"
            owners.setdefault(owner, {})[name] = names[parameter]
            uses[names[parameter]] += calls[owner]
    return Plan(owners, frozenset(name for name, count in uses.items() if count == 1))


def _wrong(
    twin: nn.Module, loss: Loss, plan: Plan, inputs: Tensor, labels: Tensor, expected: list[dict[str, Tensor]]
) -> set[str]:
    """Names of the parameters whose per-example gradients are not those expected."""
    try:
        found = per_example_gradients(twin, loss, plan, inputs, labels).gradients
    except RuntimeError as error:
        raise InputError(
            f"network: its per-example gradients cannot be computed ({str(error).splitlines()[0]}); "
            "activation checkpointing and modules with a backward pass of their own are not supported"
        ) from error
    with torch.no_grad():
        instantiated = {name: gradient.instantiate() for name, gradient in found.items()}
    scale = max(float(g.abs().max()) for gradient in expected for g in gradient.values())
    return {
        name
        for name, gradient in instantiated.items()
        for ours, theirs in zip(gradient, expected, strict=True)
        if not torch.allclose(ours, theirs[name], rtol=1e-6, atol=1e-9 * scale, equal_nan=True)
    }
