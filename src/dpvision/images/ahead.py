"""Read from a disk what is needed next, while what was read is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

READ_AHEAD = 2
"""Blocks that a thread has read, or reads, while another is used."""


def taken_ahead(take: Callable[[Tensor], Tensor], blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield what ``take`` gives of each block of indices. A thread takes the next ones meanwhile."""
    ahead: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for indices in blocks:
            ahead.append(pool.submit(take, indices))
            if len(ahead) > READ_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
