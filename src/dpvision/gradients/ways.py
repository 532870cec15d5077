"""Choose the fastest of several ways to compute the same gradient, by timing them once on the device at hand.

All must compute what the first does, whose gradients are proved for the network at hand (proof.py): one that
does not on the inputs that it is timed on is not taken.

Which way is fastest depends on sizes, caches, libraries and their versions, and differs by a factor of ten;
no table of them could be made beforehand. Ways are timed on random inputs, never on private ones, so that the
choice is a public fact.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from dpvision.gradients.per_example import PerExample
from dpvision.privacy.errors import InputError

T = TypeVar("T")

Engine = Literal["measured", "by-size", "compiled"]
"""Who chooses the ways: what was measured at the start, or the sizes alone, the same on all machines; or one
compiled program for the whole network (compiled.py).
"""


def check_engine(engine: Engine) -> None:
    """Raise InputError for another one."""
    if engine not in get_args(Engine):
        raise InputError(f"engine: must be one of {', '.join(get_args(Engine))}, not {engine!r}")


SECONDS = 15.0
"""The longest that ways and chunks are timed for a network; what is not timed by then goes by sizes."""

WORTH_TIMING = 5e-4
"""Seconds: what takes less is not timed, for the choice would be an accident."""

WORTH_CHANGING = 0.9
"""A way is preferred to the one chosen by sizes if it takes at most this share of its time."""

SAME = 0.02
"""The distance, as a share of the length, by which results of ways may differ: what bfloat16 rounds."""

_FOUND: dict[Hashable, dict[str, float]] = {}
"""Seconds of each way, kept for the process, so that equal layers of later networks have the same."""


@dataclass
class Ways:
    """The ways in which a network's layers compute their gradients; by sizes where none was chosen.

    Attributes:
        chosen: the way, by what tells one kind of call from another.
    """

    chosen: dict[Hashable, str] = field(default_factory=dict)
    _deadline: float | None = None

    def __str__(self) -> str:
        counts = Counter(self.chosen.values())
        return ", ".join(f"{name} ×{count}" for name, count in counts.most_common()) or "layers by size"

    @contextmanager
    def timed_until(self, deadline: float) -> Iterator[None]:
        """Time the ways of all calls, and choose, while this lasts. For random inputs only.

        deadline: when to leave it at that, as `time.perf_counter` counts.
        """
        self._deadline = deadline
        try:
            yield
        finally:
            self._deadline = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let `ways_in_use` return these in this thread while this lasts."""
        token = _IN_USE.set(self)
        try:
            yield
        finally:
            _IN_USE.reset(token)

    def fastest(
        self,
        key: Hashable,
        ways: Mapping[str, Callable[[], T]],
        finish: Callable[[T], object] = lambda found: None,
    ) -> T:
        """Compute in the way chosen for ``key``, or in the first of ``ways``, the one by sizes.

        key: all that the time depends on: the kind of layer, its settings, shapes and dtypes.
        finish: does what will be done with the result, where ways are told apart by that too.
        """
        if self._deadline is not None and key not in self.chosen and len(ways) > 1:
            times = _FOUND.get(key)
            if times is None and time.perf_counter() < self._deadline:
                times = _FOUND[key] = _timed(ways, finish)
            if times:
                by_sizes = next(iter(ways))
                best = min(times, key=times.__getitem__)
                change = times[best] < WORTH_CHANGING * times[by_sizes]
                self.chosen[key] = best if change else by_sizes
        return ways[self.chosen.get(key, next(iter(ways)))]()


_IN_USE: ContextVar[Ways | None] = ContextVar("ways of the pass", default=None)


def ways_in_use() -> Ways:
    """Return the ways of the pass in this thread."""
    return _IN_USE.get() or Ways()


def _timed(ways: Mapping[str, Callable[[], T]], finish: Callable[[T], object]) -> dict[str, float]:
    """Return the seconds of each way that computes what the first does, the least of three runs; only one of
    what takes three times as long as another.
    """

    def seconds(way: Callable[[], T]) -> float:
        started = time.perf_counter()
        finish(way())
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    times: dict[str, float] = {}
    expected: list[Tensor] = []
    for name, way in ways.items():
        try:
            first = seconds(way)  # also warms up
        except RuntimeError:  # a library that does not have it
            if not times:
                raise
            continue
        if not times and first < WORTH_TIMING:
            return {name: first}
        found = _tensors(way())
        expected = expected or found
        if not all(map(_close, found, expected)):
            continue
        slow = times and first > 3 * min(times.values())
        times[name] = first if slow else min(first, seconds(way), seconds(way))
    return times


def _tensors(found: Any) -> list[Tensor]:
    return list(found) if isinstance(found, tuple) else [found.instantiate()]


def _close(found: Tensor, expected: Tensor) -> bool:
    error = torch.linalg.vector_norm(found.double() - expected.double())
    return bool(error <= SAME * torch.linalg.vector_norm(expected.double()))


def consume(gradient: PerExample) -> None:
    """Do all that is done with a gradient."""
    norms = gradient.squared_norms()
    gradient.weighted_sum(torch.ones_like(norms))
