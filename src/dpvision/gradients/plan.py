"""Before any private example is read: who computes which gradient, checked on random inputs against plain autograd."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from dpvision.gradients.capture import Loss, Plan, per_example_gradients
from dpvision.gradients.reference import reference_gradients
from dpvision.privacy.errors import InputError

GROUP_NORM = "use nn.GroupNorm, which normalises every example by itself"
CROSS_EXAMPLE: dict[type[nn.Module], str] = {
    nn.modules.batchnorm._BatchNorm: GROUP_NORM,
    nn.LazyBatchNorm1d: GROUP_NORM,
    nn.LazyBatchNorm2d: GROUP_NORM,
    nn.LazyBatchNorm3d: GROUP_NORM,
}


def refuse_cross_example_layers(model: nn.Module) -> None:
    """InputError, with the layer's path and the fix, when a layer is known to mix examples or to keep statistics of them."""
    for path, module in model.named_modules():
        for kind, fix in CROSS_EXAMPLE.items():
            if isinstance(module, kind):
                raise InputError(
                    f"network: layer '{path}' is a {type(module).__name__}, which mixes the examples of a batch, so that no "
                    f"per-example gradient exists; {fix}"
                )
        if getattr(module, "track_running_stats", False):
            raise InputError(
                f"network: layer '{path}' keeps running statistics of private examples outside any mechanism; "
                "set track_running_stats=False"
            )


def make_plan(model: nn.Module, loss: Loss, views: Tensor, targets: Tensor) -> Plan:
    """Assign every trainable parameter to an owner, and prove the plan on a float64 copy of the model and random inputs.

    Only shapes and dtypes of ``views`` ``[B, K, …]`` and ``targets`` ``[B, K, …]`` are used. A parameter whose gradient an owner
    gets wrong (a weight used outside its layer's forward, say) is given to the whole model, which is replayed.

    Raises InputError when layers mix examples, when a forward changes buffers, or when gradients cannot be had.
    """
    refuse_cross_example_layers(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("network: no parameter requires a gradient, so that there is nothing to train")
    twin = copy.deepcopy(model).double()
    for module in twin.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()  # two passes must agree
    inputs, labels = _random_like(views, (2, 2)), _random_like(targets, (2, 2), low=0, high=1)
    _refuse_leaks(twin, inputs)
    expected = reference_gradients(twin, loss, inputs, labels)
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
                f"network: the per-example gradient of parameter '{min(still_wrong)}' cannot be computed: it differs from "
                "that of a minibatch of one; does the forward mix examples or draw random numbers?"
            )
    return plan


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
            together = twin(inputs.flatten(0, 1))
            alone = torch.cat([twin(views) for views in inputs])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise InputError(
                f"network: its forward fails on an input of shape {list(inputs.flatten(0, 1).shape)} ({type(error).__name__}: "
                f"{str(error).splitlines()[0]}); does it fit the image size and channels?"
            ) from error
    if not torch.allclose(together, alone, rtol=1e-6, atol=1e-9, equal_nan=True):
        raise InputError(
            "network: the output for one example changes with the other examples of the batch, so that no per-example gradient "
            "exists; look for a layer that normalises or attends over the batch dimension"
        )
    for name, buffer in twin.named_buffers():
        if not torch.equal(before[name], buffer):
            raise InputError(
                f"network: the forward pass changes buffer '{name}', which would carry private data out of the account; "
                "freeze the layer or switch its statistics off"
            )


def _assign(twin: nn.Module, rows: Tensor) -> Plan:
    """A parameter belongs to the module that holds it if that is called, else to the nearest module above that is."""
    calls: Counter[str] = Counter()
    paths = {module: path for path, module in twin.named_modules()}

    def count(module: nn.Module, *_: Any) -> None:
        calls[paths[module]] += 1

    handles = [module.register_forward_hook(count) for module in twin.modules()]
    with torch.no_grad():
        twin(rows)
    for handle in handles:
        handle.remove()

    names = {parameter: name for name, parameter in twin.named_parameters() if parameter.requires_grad}
    owners: dict[str, dict[str, str]] = {}
    uses: Counter[str] = Counter()
    for path, module in twin.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if parameter not in names:
                continue
            owner, name = path, local
            while owner not in calls:
                owner, _, last = owner.rpartition(".")
                name = f"{last}.{name}"
            owners.setdefault(owner, {})[name] = names[parameter]
            uses[names[parameter]] += calls[owner]
    return Plan(owners, frozenset(name for name, count in uses.items() if count == 1))


def _wrong(
    twin: nn.Module, loss: Loss, plan: Plan, inputs: Tensor, labels: Tensor, expected: list[dict[str, Tensor]]
) -> set[str]:
    """Names of the parameters whose per-example gradients are not those expected."""
    found = per_example_gradients(twin, loss, plan, inputs, labels).gradients
    with torch.no_grad():
        instantiated = {name: gradient.instantiate() for name, gradient in found.items()}
    scale = max(float(g.abs().max()) for gradient in expected for g in gradient.values())
    return {
        name
        for name, gradient in instantiated.items()
        for ours, theirs in zip(gradient, expected, strict=True)
        if not torch.allclose(ours, theirs[name], rtol=1e-6, atol=1e-9 * scale, equal_nan=True)
    }
