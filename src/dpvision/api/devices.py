"""Choose the device on which to compute."""

from __future__ import annotations

import torch

from dpvision.privacy.errors import InputError, reason_of


def resolve_device(name: str | None) -> torch.device:
    """Return the device of this name; by default the GPU where there is one.

    Raises:
        InputError: this machine has no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise InputError(f"there is no way to train on device '{name}'; choose cpu, cuda or mps")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by how it was built
        raise InputError(f"device '{name}' cannot be used here ({reason_of(error)})") from error
    return device
