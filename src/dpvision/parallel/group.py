"""The processes that do one run together, and all that they tell each other.

The first process, of rank 0, leads: it alone has the ledger, the run's directory and the noise. The others
follow: they hold a share of the images each, and add what comes of it to the leader's sums. What travels is
private: sums without noise, and the keys of a step.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dpvision.parallel.errors import ProcessLostError


class Peers:
    """The processes of a run: this class is of one that is alone, where nothing has to travel.

    Attributes:
        rank: this process' number, from 0.
        size: the number of processes.
        begun: whether the leader has told the others what to do.
    """

    rank, size = 0, 1
    begun = False

    @property
    def leads(self) -> bool:
        """Whether this is the process that keeps the account, adds the noise and writes the results."""
        return self.rank == 0

    def say(self, value: Any = None) -> Any:
        """Return what the leader says to all: JSON types. A follower's own ``value`` counts for nothing."""
        return value

    def hear(self, value: Any) -> list[Any]:
        """Return what each process says, by rank, to the leader: JSON types. To followers an empty list."""
        return [value]

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the leader's values, in place. Shapes and types must be the same in all."""

    def tensors(self, named: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the leader's tensors, by name, to all: on the CPU to followers, who give none."""
        return dict(named or {})

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over the processes, in their own precision: in place for the leader; a follower's stay
        as they are.
        """

    def rows(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows of all processes to the leader, by rank; to followers their own.

        Args:
            rows: float64 ``[n, D]``, of this process.
            counts: the n of each process, which the leader must know.
        """
        return rows

    def every(self, rows: Tensor) -> list[Tensor]:
        """Return the rows ``[n, D]`` of each process, by rank, to all of them; n must be the same in all."""
        return [rows]


ALONE = Peers()


class Group(Peers):
    """The processes of a ``torch.distributed`` group.

    Tensors on GPUs travel by NCCL where the group has it, everything else by Gloo, from the CPU.

    Raises:
        ProcessLostError: from all that waits for another process, if that has ended.
    """

    def __init__(self, rank: int, size: int, *, nccl: bool = False, group: Any = None) -> None:
        self.rank, self.size = rank, size
        self._nccl, self._group = nccl, group

    def say(self, value: Any = None) -> Any:
        words = _words(value) if self.leads else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor([len(words)])
        with _reaching():
            dist.broadcast(length, 0, group=self._group)
            if not self.leads:
                words = torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(words, 0, group=self._group)
        return json.loads(bytes(words.tolist()))

    def hear(self, value: Any) -> list[Any]:
        words = _words(value)
        with _reaching():
            if not self.leads:
                dist.send(torch.tensor([len(words)]), 0, group=self._group)
                dist.send(words, 0, group=self._group)
                return []
            said = [value]
            for rank in range(1, self.size):
                length = torch.empty(1, dtype=torch.int64)
                dist.recv(length, rank, group=self._group)
                words = torch.empty(int(length), dtype=torch.uint8)
                dist.recv(words, rank, group=self._group)
                said.append(json.loads(bytes(words.tolist())))
        return said

    def share(self, tensors: Sequence[Tensor]) -> None:
        for alike in _by_kind(tensors):
            flat = self._flat(alike)
            with _reaching():
                dist.broadcast(flat, 0, group=self._group)
            if not self.leads:
                _put(alike, flat)

    def tensors(self, named: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        named = dict(named or {})
        kinds = self.say({name: [str(t.dtype).removeprefix("torch."), *t.shape] for name, t in named.items()})
        if not self.leads:
            named = {
                name: torch.empty(shape, dtype=getattr(torch, dtype))
                for name, (dtype, *shape) in kinds.items()
            }
        for tensor in named.values():
            self.share([tensor])
        return named

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        for alike in _by_kind(tensors):
            flat = self._flat(alike)
            with _reaching():
                dist.reduce(flat, 0, group=self._group)
            if self.leads:
                _put(alike, flat)

    def rows(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        rows = rows.cpu().contiguous()
        with _reaching():
            if not self.leads:
                if len(rows):
                    dist.send(rows, 0, group=self._group)
                return rows
            parts = [rows, *(rows.new_empty(count, rows.shape[1]) for count in counts[1:])]
            waiting = [
                dist.irecv(part, rank, group=self._group)
                for rank, part in enumerate(parts)
                if rank and len(part)
            ]
            for one in waiting:
                if one is not None:
                    one.wait()
        return torch.cat(parts)

    def every(self, rows: Tensor) -> list[Tensor]:
        mine = self._travelling(rows.detach().contiguous())
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        with _reaching():
            dist.all_gather(parts, mine, group=self._group)
        return [part.to(rows.device) for part in parts]

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        return self._travelling(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))

    def _travelling(self, tensor: Tensor) -> Tensor:
        return tensor if self._nccl and tensor.is_cuda else tensor.cpu()


def _by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the tensors of one type and device together, in the order of the first of each kind."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(kinds.values())


@torch.no_grad()
def _put(tensors: Sequence[Tensor], flat: Tensor) -> None:
    """Write into tensors what one flat tensor has, one after another."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))


def _words(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


@contextmanager
def _reaching() -> Iterator[None]:
    """Say in one sentence that another process cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLostError(
            "another process of this run has ended, or cannot be reached any more; begin all of them again "
            "to go on, by resume where the run has begun"
        ) from error
