"""A traced model as files that torch and safetensors read alone, by a short file beside them."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from dpvision.networks import load_model
from dpvision.networks.tracing import Traced, quietly, reason
from dpvision.privacy.errors import InputError

LOADER = Path(load_model.__file__)
"""The file that loads the others, which imports nothing of this package."""

_ASSERTIONS = ("aten._assert", "aten.sym_constrain_range")
"""Beginnings of the names of operations that check what the trace found, such as the device."""
_OF_MEMORY = ("layout", "pin_memory")
"""Arguments that say where tensors are laid out: the default is right on any device."""


def graph_of(traced: Traced) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a graph as JSON types, and the tensors that it names.

    The graph has the names of its inputs, that of its output (the first one of the model), and ``operations``
    in order, each ``[name, operation, args, kwargs, done]``, where done names what no later one needs. An
    operation is ``aten.NAME.OVERLOAD`` or
    ``arithmetic.NAME``, of Python's operator module. Arguments are JSON values, or ``{"value": name}`` of an
    input, a tensor or an earlier operation, ``{"torch": name}`` of a dtype or a memory format, or
    ``{"device": ""}``, that of the first input: a model is not bound to the device it was traced on.

    Raises:
        InputError: the model is made of more than such operations.
    """
    try:
        with quietly():
            program = traced.program.run_decompositions({})  # to operations without side effects
    except Exception as error:
        raise InputError(f"the model cannot be traced for export: {reason(error)}") from error
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        raise InputError(
            "the model changes its own buffers or its input as it computes; it cannot be exported"
        )
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    graph = program.graph
    output = _simplified(graph)
    held = {**program.state_dict, **program.constants}
    names = [node.name for node in graph.nodes if node.op == "placeholder" and node.users]
    tensors = {name: held[named[name]].detach() for name in names if name in named}
    operations = [_operation(node) for node in graph.nodes if node.op not in ("placeholder", "output")]
    _free(operations, kept=output.name)
    return {"inputs": list(signature.user_inputs), "operations": operations, "output": output.name}, tensors


def loaded(graph: dict[str, Any], tensors: dict[str, Tensor]) -> torch.nn.Module:
    """Return the module that the loader makes of a graph and its tensors."""
    return load_model.Model(graph, tensors).eval()


def _simplified(graph: torch.fx.Graph) -> Node:
    """Remove assertions, and all that the model's first output does not need; return what gives that."""
    for node in reversed(graph.nodes):
        if node.op == "call_function" and str(node.target).startswith(_ASSERTIONS):
            graph.erase_node(node)
    outputs: Any = graph.output_node().args[0]
    graph.output_node().args = (outputs[:1],)
    graph.eliminate_dead_code()
    return outputs[0]


def _free(operations: list[list[Any]], kept: str) -> None:
    """Add to each operation the names of earlier results, and its own, that nothing after it needs."""
    names, seen = {operation[0] for operation in operations}, {kept}
    for operation in reversed(operations):
        used = {operation[0], *_values([*operation[2], *operation[3].values()])} & names
        operation.append(sorted(used - seen))
        seen |= used


def _values(x: Any) -> Iterator[str]:
    """Yield the names of all values in arguments as `_json` has them."""
    if isinstance(x, list):
        for one in x:
            yield from _values(one)
    elif isinstance(x, dict) and "value" in x:
        yield x["value"]


def _operation(node: Node) -> list[Any]:
    kwargs = {name: _json(x) for name, x in node.kwargs.items() if name not in _OF_MEMORY}
    return [node.name, _name_of(node), [_json(x) for x in node.args], kwargs]


def _name_of(node: Node) -> str:
    """Return the name of what a node calls. InputError where the loader does not know such operations."""
    target: Any = node.target
    is_aten = isinstance(target, torch._ops.OpOverload) and target.namespace == "aten"
    if is_aten and load_model.may_call(target):
        return str(target)
    name = getattr(target, "__name__", str(target))
    if name in load_model.ARITHMETIC and target is getattr(operator, name):
        return f"arithmetic.{name}"
    raise InputError(f"the model has {target} in it, which the loader does not call; it cannot be exported")


def _json(x: Any) -> Any:
    """Return an argument as JSON types."""
    if isinstance(x, Node):
        return {"value": x.name}
    if isinstance(x, torch.device):
        return {"device": ""}
    if isinstance(x, torch.dtype | torch.memory_format):
        return {"torch": str(x).removeprefix("torch.")}
    if isinstance(x, list | tuple):
        return [_json(one) for one in x]
    if x is None or isinstance(x, bool | int | float | str):
        return x
    raise InputError(f"the model has {x!r} as an argument, which cannot be written; it cannot be exported")
