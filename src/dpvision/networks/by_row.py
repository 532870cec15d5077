"""A function of a batch, row by row, so that no row's result depends on the others to the last bit.

A network that treats every row by itself may still round otherwise in a batch of another size. With one image
more, the features of all others would then move a little, and so would a sum over them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor


def rows_at_a_time(device: torch.device) -> int:
    """Return how many rows keep the device busy; no more, for trials and blank rows cost as much."""
    return 16 if device.type == "cpu" else 512


def by_row(
    function: Callable[[Tensor], Tensor],
    blocks: Callable[[int], Iterable[Tensor]],
    shape: Sequence[int],
    device: torch.device,
    most: int | None = None,
) -> Iterator[Tensor]:
    """Yield ``function`` of rows, taken to ``device``, some at a time: ``[n, …]`` each.

    ``blocks(n)`` gives all rows, uint8 of this ``shape`` each, n at a time and fewer at the end: what
    ``Images.blocks`` does, and the ``split`` of a tensor.

    Guarantee: what comes of a row does not depend on the others, to the last bit. All batches have one shape,
    the last being filled up; it is the largest, of at most ``most`` rows, in which random rows gave the same
    wherever they stood. ``tests/networks/test_by_row.py`` shows it.
    """
    size = rows_at_a_time(device) if most is None else most
    while not _is_the_same_everywhere(function, shape, size, device):
        size //= 2
    for some in blocks(size):
        filled = torch.cat([some, some.new_zeros(size - len(some), *some.shape[1:])])
        yield function(filled.to(device))[: len(some)]


def _is_the_same_everywhere(
    function: Callable[[Tensor], Tensor], shape: Sequence[int], size: int, device: torch.device
) -> bool:
    """Try, on random rows of this shape, whether a row's output is the same wherever it is."""
    if size <= 1:
        return True
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(256, (size, *shape), generator=generator, dtype=torch.uint8).to(device)
    # If no row's result changes where all are moved by one place, no place is unlike another.
    return torch.equal(function(rows).roll(1, 0), function(rows.roll(1, 0)))
