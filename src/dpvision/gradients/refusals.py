"""Networks that are refused by what they are made of, before anything is tried."""

from __future__ import annotations

import torch
from torch import nn

from dpvision.gradients.dropout import refuse_unknown_dropout
from dpvision.privacy.errors import InputError


def refuse_cross_example_layers(model: nn.Module) -> None:
    """InputError, with the layer's path and the fix, when a layer is known to mix examples or to keep
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
    """InputError for a network that mixes examples by its layers' kinds, cannot be looked into, or has
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
