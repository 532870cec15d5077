"""A function of a batch, row by row, so that no row's result depends on the others to the last bit.

A network that treats every row by itself may still round otherwise in a batch of another size. With one image
more, the features of all others would then move a little, and so would a sum over them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

Each = Callable[[Callable[[Tensor], Tensor], Iterable[Tensor]], Iterable[Tensor]]
"""What calls a function with each of several batches, as ``map`` does."""


TRIALS_OF_VECTORS = 64


def rows_at_a_time(device: torch.device) -> int:
    """Return how many rows keep the device busy; no more, for trials and blank rows cost as much."""
    return 32 if device.type == "cpu" else 512


def by_row(
    function: Callable[[Tensor], Tensor],
    blocks: Callable[[int], Iterable[Tensor]],
    shape: Sequence[int],
    device: torch.device,
    most: int | None = None,
    concurrent: bool = False,
) -> Iterator[Tensor]:
    """Yield ``function`` of rows, taken to ``device``, some at a time: ``[n, …]`` each.

    ``blocks(n)`` gives all rows, uint8 of this ``shape`` each, n at a time and fewer at the end: what
    ``Images.blocks`` does, and the ``split`` of a tensor. On a CPU, a function that may be ``concurrent`` is
    called in several threads at a time: one core for a batch wastes less than all of them for one.

    Guarantee: what comes of a row does not depend on the others, to the last bit. All batches have one shape,
    the last being filled up; it is the largest, of at most ``most`` rows, in which random rows gave the same
    wherever they stood. ``tests/networks/test_by_row.py`` shows it.
    """
    size = rows_at_a_time(device) if most is None else most
    threads = torch.get_num_threads() if concurrent and device.type == "cpu" else 1
    each = _in_threads if threads > 1 else map
    while not _is_the_same_everywhere(function, each, shape, size, device):
        size //= 2

    def filled(some: Tensor) -> Tensor:
        rows = torch.cat([some, some.new_zeros(size - len(some), *some.shape[1:])])
        return function(rows.to(device))[: len(some)]

    yield from each(filled, blocks(size))


def _in_threads(function: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield ``function`` of each batch, in their order, worked on by as many threads as torch has, each of
    which takes one core.
    """
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()

    def work(batch: Tensor) -> Tensor:
        with torch.set_grad_enabled(grad):  # each thread has its own
            return function(batch)

    waiting: deque[Future[Tensor]] = deque()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for batch in batches:
                waiting.append(pool.submit(work, batch))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(threads)  # some of torch's libraries have one number for all threads


def _is_the_same_everywhere(
    function: Callable[[Tensor], Tensor],
    each: Each,
    shape: Sequence[int],
    size: int,
    device: torch.device,
) -> bool:
    """Try, on random rows of this shape, whether a row's output is the same wherever it is.

    If no row's result changes where all are moved by one place, no place is unlike another. But few rows then
    cross a border between places that round differently, and may come out the same by chance: hence also by
    half of all places, and many rows where they are vectors, of which a function may say little.
    """
    if size <= 1:
        return True
    generator = torch.Generator().manual_seed(0)
    for _ in range(TRIALS_OF_VECTORS if len(shape) == 1 else 1):
        rows = torch.randint(256, (size, *shape), generator=generator, dtype=torch.uint8).to(device)
        shifts = (1, size // 2)
        here, *others = each(function, [rows, *(rows.roll(shift, 0) for shift in shifts)])
        same = (here.roll(shift, 0).equal(there) for shift, there in zip(shifts, others, strict=True))
        if not all(same):
            return False
    return True
