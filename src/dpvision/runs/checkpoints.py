"""What an interrupted run goes on from: one file, replaced whole, never unpickled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from dpvision.networks.weights import safetensors_bytes
from dpvision.privacy.errors import InputError
from dpvision.runs.files import write_atomically

# Saving takes at most one part in this many of the time between two saves, so it costs under 5 %.
LEAST_PAUSE = 20


class FileCheckpoints:
    """Keeps a training state, a flat dictionary of tensors, in the safetensors file at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next_save = 0.0  # on time.monotonic's clock

    def load(self) -> dict[str, Tensor] | None:
        """The last state that was saved, on the CPU; None when there is none.

        Raises:
            InputError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            return safetensors.torch.load(self.path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.path} cannot be read ({error}); restore it from a copy") from error

    def save(self, state: Callable[[], Mapping[str, Tensor]], final: bool) -> None:
        """Save ``state()`` if the last save is long enough ago, or if this is the last.

        Raises:
            InputError: the file system refuses; the last checkpoint stays.
        """
        started = time.monotonic()
        if started < self._next_save and not final:
            return
        write_atomically(self.path, safetensors_bytes(state()))
        ended = time.monotonic()
        self._next_save = ended + LEAST_PAUSE * (ended - started)
