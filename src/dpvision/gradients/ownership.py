"""Decide who computes the gradient of which parameter: a layer by its rule, or a module by being replayed."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dpvision.gradients.broadcast import Broadcast
from dpvision.gradients.forward import forward
from dpvision.gradients.group_norm import FUSED
from dpvision.gradients.module_state import with_tensors
from dpvision.gradients.rules import RULES


@dataclass(frozen=True)
class Ownership:
    """The assignment of parameters to the modules that compute their gradients.

    owners: module path → {parameter's name in that module: its name in the model}. A module with a rule and
        only parameters of its own uses the rule; any other is replayed.
    used_once: names of the parameters that enter a pass once, whose gradients may stay factors.
    rows: module path → the number of rows that its calls have in their tensors, per row of the batch. Checked
        at every call of a pass over several examples.
    broadcast: name of a parameter that is only broadcast over rows, of which each example is given a copy
        (broadcast.py) → the number of these rows, per row of the batch. It has no owner.
    one_by_one: whether every example is taken by itself, by plain autograd, because the network decides by
        the values of a batch what it does with the rows. Nothing else is then needed.
    """

    owners: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    used_once: frozenset[str] = frozenset()
    rows: Mapping[str, float] = field(default_factory=dict)
    broadcast: Mapping[str, float] = field(default_factory=dict)
    one_by_one: bool = False


def assign_owners(model: nn.Module, rows: Tensor, dropping: list[str]) -> Ownership:
    """Give a parameter to the module that holds it if its calls can be split by example, else to the nearest
    module above whose calls can: all tensors that go in, and the one that comes out, have the same number of
    rows for every view. One shared by the examples may have as many rows as a batch by accident, so two batch
    sizes are tried. If the calls of a dropout layer (``dropping``: their paths) cannot be split, each example
    is given to the network by itself.
    """
    calls: Counter[str] = Counter()
    rows_per_view: defaultdict[str, set[float]] = defaultdict(set)
    paths = {module: path for path, module in model.named_modules()}
    sizes = (len(rows), len(rows) - 1)

    def note(size: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            path = paths[module]
            calls[path] += size == sizes[0]
            returns_tensor = any(isinstance(leaf, Tensor) for leaf in tree_leaves(output))
            rows_per_view[path] |= {len(leaf) / size for leaf in leaves_with_rows(args, kwargs, output)}
            if not returns_tensor:
                rows_per_view[path].add(float("nan"))

        return hook

    for size in sizes:
        handles = [module.register_forward_hook(note(size), with_kwargs=True) for module in model.modules()]
        with torch.no_grad():
            forward(model, rows[:size])
        for handle in handles:
            handle.remove()
    splits = {path: min(found) for path, found in rows_per_view.items() if len(found) == 1} | {"": 1.0}
    if any(path not in splits for path in dropping if calls[path]):
        return Ownership(one_by_one=True)

    broadcast = _broadcast(model, rows)
    names = {
        parameter: name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name not in broadcast
    }
    owners: dict[str, dict[str, str]] = {}
    uses: Counter[str] = Counter()
    for path, module in model.named_modules():
        for local, parameter in module.named_parameters(recurse=False):
            if parameter not in names:
                continue
            owner, name = path, local
            while owner not in splits:
                owner, _, last = owner.rpartition(".")
                name = f"{last}.{name}"
            owners.setdefault(owner, {})[name] = names[parameter]
            uses[names[parameter]] += calls[owner]
    used_once = frozenset(name for name, count in uses.items() if count == 1)
    return Ownership(
        owners, used_once, {path: splits[path] for path in (*owners, *dropping) if path in splits}, broadcast
    )


def _broadcast(model: nn.Module, rows: Tensor) -> dict[str, float]:
    """Find the parameters that no layer's rule knows and that are only broadcast over rows, and over how many
    per row of the batch. Two numbers of rows are tried, as for calls.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = {
        names[parameter]: parameter
        for module in model.modules()
        if type(module) not in (*RULES, *FUSED)
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad
    }
    if not parameters:
        return {}
    met: dict[str, set[float]] = {name: set() for name in parameters}
    for size in (len(rows), len(rows) - 1):
        values: dict[Tensor, Tensor] = {p: p.detach() for p in parameters.values()}
        mode = Broadcast(
            {name: values[parameter] for name, parameter in parameters.items()}, torch.Size([size, 1])
        )
        with with_tensors(model, values), mode, torch.no_grad():
            forward(model, rows[:size])
        for name in parameters:
            met[name] |= {math.nan} if name in mode.others else mode.met[name]
    # One that is never used meets no rows, and has no gradient.
    constant = {name: min(found, default=0.0) for name, found in met.items() if len(found) <= 1}
    return {name: rows for name, rows in constant.items() if not math.isnan(rows)}


def given_to_the_whole(ownership: Ownership, names: set[str]) -> Ownership:
    """Give these parameters to the whole model."""
    owners = {
        path: {local: full for local, full in owned.items() if full not in names}
        for path, owned in ownership.owners.items()
    }
    owners[""] = owners.get("", {}) | {name: name for name in names}
    owners = {path: owned for path, owned in owners.items() if owned}
    broadcast = {name: rows for name, rows in ownership.broadcast.items() if name not in names}
    return Ownership(owners, ownership.used_once - names, {**ownership.rows, "": 1.0}, broadcast)


def leaves_with_rows(args: Any, kwargs: Any, output: Any) -> list[Tensor]:
    """Find the tensors of a call that have rows: all that go in, and the one that comes out."""
    outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)][:1]
    leaves = [*tree_leaves((args, kwargs)), *outputs]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim > 0]
