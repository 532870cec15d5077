"""Networks that are refused: by what they are made of, or by what they do with random examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dpvision.gradients.dropout import active_dropout, refuse_unknown_dropout
from dpvision.gradients.forward import forward
from dpvision.gradients.ownership import Ownership
from dpvision.gradients.rules import RULES
from dpvision.gradients.trial import tolerance
from dpvision.privacy.errors import InputError


def refuse_cross_example_layers(model: nn.Module) -> None:
    """Raise InputError, with the layer's path and the fix, when a layer is known to mix examples or to keep
    statistics of them. A BatchNorm in evaluation mode, with fixed statistics, does neither.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm and the lazy ones too
            if not module.training and module.running_mean is not None:
                continue
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


def refuse_unusable(model: nn.Module) -> None:
    """Raise InputError for a network that mixes examples by its layers' kinds, cannot be looked into, or has
    nothing to train.
    """
    for path, module in model.named_modules():
        name = f"layer '{path}'" if path else "it"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"network: {name} is a ScriptModule, whose layers cannot be watched; give the Python module "
                "that it was made of"
            )
        if type(module).__name__ == "OptimizedModule":  # not imported: it takes seconds
            raise InputError(
                f"network: {name} is compiled, so that its layers cannot be watched; give the module that "
                "was compiled (its _orig_mod)"
            )
    refuse_cross_example_layers(model)
    for parameter_path, parameter in model.named_parameters():
        if torch.nn.parameter.is_lazy(parameter):
            raise InputError(
                f"network: parameter '{parameter_path}' has no shape yet; run the network once on an image "
                "of the right size"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("network: no parameter requires a gradient, so that there is nothing to train")
    refuse_unknown_dropout(model)


def refuse_leaks(model: nn.Module, inputs: Tensor) -> None:
    """Raise InputError where one example's output depends on another, or where anything is drawn or kept."""
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


def refuse_replayed_dropout(model: nn.Module, ownership: Ownership) -> None:
    """Raise InputError where a module that is run again for its gradients would then drop other units."""
    for path, owned in ownership.owners.items():
        module = model.get_submodule(path)
        if type(module) not in RULES and active_dropout(module):
            raise InputError(
                f"network: to get the gradient of parameter '{min(owned.values())}', its module is run "
                "again, and would drop other units than before; set p=0 in the dropout layers of that module"
            )


def _rows_of_output(model: nn.Module, rows: Tensor) -> list[Tensor]:
    leaves = [leaf for leaf in tree_leaves(forward(model, rows)) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.ndim > 0]


def _close(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.allclose(a, b, **tolerance(a.dtype), equal_nan=True)
        for a, b in zip(ours, theirs, strict=True)
    )
