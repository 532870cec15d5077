"""Before any private example is read: who computes which gradient, checked on random inputs against plain
autograd.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dpvision.gradients.capture import (
    CannotRun,
    Loss,
    Plan,
    example_losses,
    forward,
    leaves_with_rows,
    per_example_gradients,
    told,
)
from dpvision.gradients.data_flow import decides_by_values
from dpvision.gradients.dropout import active_dropout, dropout_drawn
from dpvision.gradients.module_state import left_as_it_was, moved_a_little, with_tensors
from dpvision.gradients.reference import reference_gradients
from dpvision.gradients.rules import RULES
from dpvision.privacy.errors import InputError


def make_plan(model: nn.Module, loss: Loss, views: Tensor, targets: Tensor) -> Plan:
    """Assign every trainable parameter to an owner, and prove the plan on random weights and inputs, in
    float64 (or in the network's own type, where its forward asks for that).

    Only shapes and dtypes of ``views`` ``[B, K, …]`` and ``targets`` ``[B, K, …]`` are used. A parameter
    whose gradient an owner gets wrong (a weight used outside its layer's forward, say) is given to the whole
    model, which is replayed. A network that decides by the values of a batch what it does with its rows is
    given one example at a time.

    Raises InputError when layers mix examples, when a forward changes buffers, or when gradients cannot be
    had.
    """
    try:
        return _proved_plan(model, loss, views, targets, torch.float64)
    except CannotRun as error:
        try:
            return _proved_plan(model, loss, views, targets, None)
        except CannotRun:
            raise _with_views_hint(model, views, error) from error.__cause__


def _proved_plan(
    model: nn.Module, loss: Loss, views: Tensor, targets: Tensor, dtype: torch.dtype | None
) -> Plan:
    inputs = random_like(views, (2, 2), dtype or views.dtype)
    labels = random_like(targets, (2, 2), dtype or targets.dtype, low=0, high=1)
    dropping = [path for path, _ in active_dropout(model)]
    with _twin(model, dtype):
        _refuse_leaks(model, inputs)
        example_losses(model, loss, inputs, labels, None)
        plan = Plan(one_by_one=True)
        if not decides_by_values(model, inputs.flatten(0, 1)):
            plan = _assign(model, inputs.flatten(0, 1), dropping)
        try:
            expected = reference_gradients(model, loss, inputs, labels)
        except RuntimeError as error:
            raise InputError(
                f"network: its backward pass fails ({told(error)}); where an operation modifies a "
                "tensor in place, set inplace=False"
            ) from error
        wrong = _wrong(model, loss, plan, inputs, labels, expected)
        if wrong and not plan.one_by_one:
            plan = _given_to_the_whole(plan, wrong)
            wrong = _wrong(model, loss, plan, inputs, labels, expected)
        if wrong:
            raise InputError(
                f"network: the per-example gradient of parameter '{min(wrong)}' cannot be computed: "
                "it differs from that of a minibatch of one; does the forward mix examples or draw "
                "random numbers?"
            )
    _refuse_replayed_dropout(model, plan)
    return plan


@contextmanager
def _twin(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """While this lasts, the model has other weights and drops nothing, so that two passes agree."""
    with (
        left_as_it_was(model),
        dropout_drawn(model, None),
        with_tensors(model, moved_a_little(model, dtype)),
        torch.enable_grad(),
    ):
        yield


def _with_views_hint(model: nn.Module, views: Tensor, error: CannotRun) -> InputError:
    """The same error, unless it is that the views of an example were given no dimension of their own."""
    rows = random_like(views.unsqueeze(1), (2, 1), views.dtype).flatten(0, 1)
    try:
        with _twin(model, None), torch.no_grad():
            forward(model, rows)
    except InputError:
        return error
    return InputError(
        f"views: expected [B, K, …], the K views of each example; {list(views.shape)} looks like a batch "
        "[B, …] without them; give views.unsqueeze(1)"
    )


def _given_to_the_whole(plan: Plan, names: set[str]) -> Plan:
    """The plan in which these parameters belong to the whole model."""
    owners = {
        path: {local: full for local, full in owned.items() if full not in names}
        for path, owned in plan.owners.items()
    }
    owners[""] = owners.get("", {}) | {name: name for name in names}
    owners = {path: owned for path, owned in owners.items() if owned}
    return Plan(owners, plan.used_once - names, {**plan.rows, "": 1.0})


def _refuse_replayed_dropout(model: nn.Module, plan: Plan) -> None:
    for path, owned in plan.owners.items():
        module = model.get_submodule(path)
        if type(module) not in RULES and active_dropout(module):
            raise InputError(
                f"network: to get the gradient of parameter '{min(owned.values())}', its module is run "
                "again, and would drop other units than before; set p=0 in the dropout layers of that module"
            )


def random_like(
    tensor: Tensor, leading: tuple[int, int], dtype: torch.dtype, low: int = 0, high: int = 2
) -> Tensor:
    """Public stand-ins for a tensor ``[B, K, …]``: its shape and kind, none of its values."""
    generator = torch.Generator().manual_seed(0)
    shape = (*leading, *tensor.shape[2:])
    if tensor.is_floating_point():
        found = torch.rand(shape, generator=generator, dtype=torch.float64)
        return found.to(tensor.device, dtype)
    return torch.randint(low, high, shape, generator=generator).to(tensor.device, tensor.dtype)


def _refuse_leaks(model: nn.Module, inputs: Tensor) -> None:
    """InputError where the output for one example depends on another, or where anything is drawn or kept."""
    rows = inputs.flatten(0, 1)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        together, again = _rows_of_output(model, rows), _rows_of_output(model, rows)
        parts = [_rows_of_output(model, views) for views in inputs]
    for name, buffer in model.named_buffers():
        if not torch.equal(before[name], buffer):
            raise InputError(
                f"network: the forward pass changes buffer '{name}', which would carry private data out of "
                "the account; freeze the layer or switch its statistics off"
            )
    alone = [torch.cat(leaves) for leaves in zip(*parts, strict=True)]
    if not _close(together, again):
        raise InputError(
            "network: its forward draws random numbers outside nn.Dropout layers (as the dropout of "
            "nn.MultiheadAttention does), so that its gradients cannot be checked; set that dropout to 0"
        )
    if not _close(together, alone):
        raise InputError(
            "network: the output for one example changes with the other examples of the batch, so that no "
            "per-example gradient exists; look for a layer that normalises or attends over the batch"
        )


def _rows_of_output(model: nn.Module, rows: Tensor) -> list[Tensor]:
    leaves = [leaf for leaf in tree_leaves(forward(model, rows)) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.ndim > 0]


def _close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.allclose(a, b, **_tolerance(a.dtype), equal_nan=True)
        for a, b in zip(ours, theirs, strict=True)
    )


def _tolerance(dtype: torch.dtype, scale: float = 1.0) -> dict[str, float]:
    """How far results that are the same but for rounding may be apart."""
    return (
        {"rtol": 1e-6, "atol": 1e-9 * scale}
        if dtype == torch.float64
        else {"rtol": 1e-3, "atol": 1e-4 * scale}
    )


def _assign(model: nn.Module, rows: Tensor, dropping: list[str]) -> Plan:
    """A parameter belongs to the module that holds it if its calls can be split by example, else to the
    nearest module above whose calls can: all tensors that go in, and the one that comes out, have the same
    number of rows for every view. One shared by the examples may have as many rows as a batch by accident, so
    two batch sizes are tried. If the calls of a dropout layer (``dropping``: their paths) cannot be split,
    each example is given to the network by itself.
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
        return Plan(one_by_one=True)

    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
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
    return Plan(owners, used_once, {path: splits[path] for path in (*owners, *dropping) if path in splits})


def _wrong(
    model: nn.Module,
    loss: Loss,
    plan: Plan,
    inputs: Tensor,
    labels: Tensor,
    expected: list[dict[str, Tensor]],
) -> set[str]:
    """Names of the parameters whose per-example gradients are not those expected."""
    at_a_time = 1 if plan.one_by_one else len(inputs)
    wrong: set[str] = set()
    scale = max(float(g.abs().max()) for gradient in expected for g in gradient.values() if g.numel())
    for first in range(0, len(inputs), at_a_time):
        some = slice(first, first + at_a_time)
        try:
            found = per_example_gradients(model, loss, plan, inputs[some], labels[some]).gradients
        except RuntimeError as error:
            raise InputError(
                f"network: its per-example gradients cannot be computed ({told(error)}); "
                "activation checkpointing and modules with a backward pass of their own are not supported"
            ) from error
        for name, gradient in found.items():
            with torch.no_grad():
                instantiated = gradient.instantiate()
            wrong |= {
                name
                for ours, theirs in zip(instantiated, expected[some], strict=True)
                if not torch.allclose(
                    ours, theirs[name].to(ours.dtype), **_tolerance(ours.dtype, scale), equal_nan=True
                )
            }
    return wrong
