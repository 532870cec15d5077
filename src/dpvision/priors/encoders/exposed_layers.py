"""Return the outputs of layers inside a network, chosen by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import Tensor, nn

from dpvision.privacy.errors import InputError


def check_layers(what: str, network: nn.Module, layers: Sequence[str]) -> None:
    """Raise InputError unless these are names of submodules, each once; ``what`` is for the message."""
    names = [name for name, _ in network.named_modules() if name]
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"{what}: layers must be names of one layer or more, each once, not {list(layers)}")
    for layer in layers:
        if layer not in names:
            nearest = ", ".join(get_close_matches(layer, names, n=5, cutoff=0))
            raise InputError(f"{what} has no layer '{layer}'; the names nearest to it: {nearest}")


def layer_outputs(network: nn.Module, layers: Sequence[str], x: Any) -> list[Tensor]:
    """Return the outputs of the submodules of those names when x goes through the network, in the order of
    names.

    They are copies: a network may overwrite them in place later on, as ReLUs often do. The network has hooks
    only meanwhile, so that nothing of x stays behind in it.

    Raises:
        InputError: one of them is not run exactly once, or gives something else than a tensor.
    """
    outputs: dict[str, list[Any]] = {layer: [] for layer in layers}
    with ExitStack() as hooks:
        for layer, kept in outputs.items():
            module = network.get_submodule(layer)
            hooks.enter_context(module.register_forward_hook(partial(_keep, kept)))
        network(x)
    for layer, kept in outputs.items():
        if len(kept) != 1 or not isinstance(kept[0], Tensor):
            found = f"is run {len(kept)} times" if len(kept) != 1 else "does not give one tensor"
            raise InputError(f"layer '{layer}' {found}; choose a layer that gives one tensor, once")
    return [kept[0] for kept in outputs.values()]


def up_to(network: nn.Sequential, layers: Sequence[str]) -> nn.Sequential:
    """Return a sequence without the modules behind the last of these layers, which all exist. Names stay."""
    children = list(network.named_children())
    holds = [[layer for layer in layers if f"{layer}.".startswith(f"{name}.")] for name, _ in children]
    last = max(index for index, held in enumerate(holds) if held)
    name, child = children[last]
    if isinstance(child, nn.Sequential) and name not in holds[last]:
        child = up_to(child, [layer.removeprefix(f"{name}.") for layer in holds[last]])
    return nn.Sequential(OrderedDict([*children[:last], (name, child)]))


def _keep(kept: list[Any], module: nn.Module, inputs: Any, output: Any) -> None:
    kept.append(output.clone() if isinstance(output, Tensor) else output)
