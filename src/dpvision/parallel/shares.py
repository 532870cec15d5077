"""Which examples are whose, where several processes share them."""

from __future__ import annotations

from torch import Tensor

from dpvision.parallel.group import Peers

LONGEST_RUN = 256
"""The most neighbours by id that one process takes: enough that they are read together from a disk."""
RUNS_EACH = 32
"""Each process takes at least so many runs, where there are as many ids: then shares are about equal."""


def share_of(peers: Peers, ids: Tensor, count: int) -> Tensor:
    """Return the indices, in order, of the examples that this process has of all: int64 ``[n]``.

    Guarantee: which process has an example depends on its id and on public numbers, and on no other example:
    one more or less moves none of the others to another process, where sums may round otherwise. Every
    example is of exactly one process. ``tests/parallel/test_shares.py`` takes examples away.

    Args:
        peers: the processes.
        ids: int64 ``[N]``, distinct: see :mod:`dpvision.privacy.by_example`.
        count: the number of examples as it was declared, which is public.
    """
    run = max(1, min(LONGEST_RUN, count // (RUNS_EACH * peers.size)))
    owner = ids.div(run, rounding_mode="floor").remainder(peers.size)
    return (owner == peers.rank).nonzero().squeeze(1)
