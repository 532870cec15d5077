"""Names of very many images and units: digests of one length, one after another in an array."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Names = NDArray[np.void]
"""Names [N]. A list of as many objects would take five times the memory."""

AT_A_TIME = 2**14
"""Names that are objects of Python at a time."""


def names_of(digests: Iterable[bytes], size: int) -> Names:
    """Return names of ``size`` bytes each as an array."""
    return np.fromiter(digests, dtype=f"V{size}")


def rows_of(array: NDArray[np.uint8] | NDArray[np.int8]) -> Names:
    """Return the rows of an array [N, size] as names, without a copy of a contiguous one."""
    return np.ascontiguousarray(array).view(f"V{array.shape[1]}")[:, 0]


def in_order(names: Names, others: Names | None = None) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield names in their order, as trees are filled fastest, each with that at the same place of
    ``others``. Equal ones come in the order of their places.
    """
    order = np.argsort(names, kind="stable")
    for begin in range(0, len(order), AT_A_TIME):
        some = order[begin : begin + AT_A_TIME]
        beside: Iterable[bytes | None] = itertools.repeat(None) if others is None else others[some].tolist()
        yield from zip(names[some].tolist(), beside, strict=False)
