"""An optimiser's state as a flat dictionary of tensors, for checkpoints that are never unpickled."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from dpvision.training.saved_state import check_finite


def optimizer_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return all that it has learned of its parameters, without settings such as the learning rate."""
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }


def load_optimizer_state(optimizer: Optimizer, state: Mapping[str, Tensor]) -> None:
    """Take up where `optimizer_state` was taken, with the settings that the optimiser has.

    Raises:
        KeyError, RuntimeError, ValueError: it is the state of another optimiser.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        index, _, name = key.partition(".")
        if not 0 <= int(index) < len(parameters):
            raise ValueError(f"there is no parameter {index}")
        if tensor.dim() and tensor.shape != parameters[int(index)].shape:
            raise ValueError(f"{name} of parameter {index} has the shape {list(tensor.shape)}")
        check_finite(f"{name} of parameter {index}", tensor)
        saved.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved, "param_groups": groups})
