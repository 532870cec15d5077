"""Find the other processes: those that torchrun, or whatever sets the same variables, has started."""

from __future__ import annotations

import atexit
import gc
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from dpvision.parallel.group import ALONE, Group, Peers
from dpvision.parallel.heartbeat import Heartbeat
from dpvision.parallel.variables import are_several, number
from dpvision.privacy.errors import InputError, reason_of

LONGEST_WAIT = timedelta(days=30)
"""How long a process waits for another that lives: until its images are read, or its features computed. That
another has ended is noticed at once, or by its heartbeat.
"""
LONGEST_START = timedelta(minutes=10)
"""How long the processes wait for each other to begin."""


@cache
def peers() -> Peers:
    """Return the processes of which this is one; they must all come here. On its own it is alone.

    Raises:
        InputError: the variables that torchrun sets are damaged, or the others do not come.
    """
    if dist.is_available() and dist.is_initialized():  # by the program that calls
        if dist.get_world_size() == 1:
            return ALONE
        return Group(dist.get_rank(), dist.get_world_size(), group=dist.new_group(backend="gloo"))
    if not are_several():
        return ALONE
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=LONGEST_START)))
        nccl = torch.cuda.is_available() and number("LOCAL_WORLD_SIZE", size) <= torch.cuda.device_count()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=PrefixStore("dpvision", store),
            rank=rank,
            world_size=size,
            timeout=LONGEST_WAIT,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the {number('WORLD_SIZE', 1)} processes of this run do not find each other; start them all, "
            f"by torchrun, or unset WORLD_SIZE ({reason_of(error)})"
        ) from error
    heartbeat = Heartbeat(PrefixStore("heartbeat", store), rank, size)
    atexit.register(_leave, heartbeat)
    return Group(rank, size, nccl=nccl)


def _leave(heartbeat: Heartbeat) -> None:
    """End the threads that wait for others, as Python ends: torch would end the process by an error. Those of
    a group end with its last reference, which may be part of a cycle.
    """
    heartbeat.end()
    dist.destroy_process_group()
    gc.collect()
