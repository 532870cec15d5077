"""Keep what an interrupted run goes on from: one file, replaced whole, never unpickled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from dpvision.images.files import reading
from dpvision.networks.weights import checked_facts, safetensors_bytes
from dpvision.privacy.account import Account
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event
from dpvision.privacy.uninterrupted import uninterrupted
from dpvision.runs.files import check_room, write_atomically

# Saving takes at most one part in this many of the time between two saves, so it costs under 5 %.
LEAST_PAUSE = 20


class Checkpoints(Protocol):
    """The file in which a run keeps what it needs to go on after an interruption."""

    def load(self) -> dict[str, Tensor] | None:
        """Return the last state that was saved, on the CPU; None when there is none."""

    def save(self, state: Callable[[], Mapping[str, Tensor]], final: bool) -> None:
        """Save the state after a step; may skip, unless ``final``."""

    def reserve(self, size: int) -> None:
        """Reserve room before something is spent, for the bytes of the state to be saved. InputError where
        there is no room for it.
        """


class FileCheckpoints:
    """Keeps a training state, a flat dictionary of tensors, in the safetensors file at ``path``.

    Args:
        path: the path of the file.
        run: identifies the run. The file says which run it is of, and that of another is refused.

    Attributes:
        account: the run's, once it has one. The file says what had been spent when it was written.
    """

    def __init__(self, path: Path, run: str = "") -> None:
        self.path, self.run = path, run
        self.account: Account | None = None
        self._next_save = 0.0  # on time.monotonic's clock
        self._found: tuple[bytes, dict[str, Any]] | None = None

    def load(self) -> dict[str, Tensor] | None:
        """Return the last state that was saved, on the CPU; None when there is none.

        Raises:
            InputError: the file is damaged, or of another run.
        """
        found, self._found = self._read(), None
        if found is None:
            return None
        try:
            return safetensors.torch.load(found[0])
        except SafetensorError as error:
            raise InputError(f"{self.path} cannot be read ({error}); restore it from a copy") from error

    def save(self, state: Callable[[], Mapping[str, Tensor]], final: bool) -> None:
        """Save ``state()`` if the last save is long enough ago, or if this is the last.

        Raises:
            InputError: the file system refuses; the last checkpoint stays.
        """
        started = time.monotonic()
        if started < self._next_save and not final:
            return
        spent = [event.to_json() for event in self.account.spent] if self.account else []
        with uninterrupted():
            write_atomically(self.path, safetensors_bytes(state(), {"run": self.run, "spent": spent}))
        ended = time.monotonic()
        self._next_save = ended + LEAST_PAUSE * (ended - started)

    def reserve(self, size: int) -> None:
        """Make sure of room for a state of so many bytes, before something is spent that only it would keep.

        Raises:
            InputError: the file system refuses.
        """
        check_room(self.path, size)

    def spent(self) -> tuple[Event, ...]:
        """Return what the run had spent when it was last saved; nothing where it was not.

        Raises:
            InputError: as of `load`.
        """
        found = self._read()
        with reading(str(self.path)):
            return tuple(Event.from_json(event) for event in found[1]["spent"]) if found else ()

    def _read(self) -> tuple[bytes, dict[str, Any]] | None:
        """Return the file's content, verified, and its facts. It is read once, and kept until loaded."""
        if self._found is not None:
            return self._found
        with reading(str(self.path)):
            if not self.path.exists():
                return None
            content = self.path.read_bytes()
        facts = checked_facts(self.path, content)
        if facts.keys() != {"run", "spent"} or facts["run"] != self.run:
            raise InputError(f"{self.path} is no checkpoint of this run; restore that of this one")
        self._found = content, facts
        return self._found
