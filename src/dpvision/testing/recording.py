"""Writes down all that passes the mechanism in a run, and hands out again what an earlier run released."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dpvision.gradients import ClippedSum
from dpvision.privacy import Event, GaussianSumMechanism, RandomSource
from dpvision.privacy.mechanisms import Mechanism, Recorder
from dpvision.training import Batch, PrivateTrainer, StepKeys, UnitBatch

OURS = (GaussianSumMechanism,)
"""The mechanisms of dpvision's own methods."""


@dataclass(frozen=True, eq=False)
class Release:
    """One release: what went into the mechanism, and what came out of it.

    Attributes:
        mechanism: the mechanism that released.
        sums: float64, before noise.
        noisy: float64, after it.
        order: what the mechanism did meanwhile: "recorded", the event in the account, or "drawn", bits.
        recorded: the events that it recorded.
    """

    mechanism: Mechanism
    sums: Mapping[str, Tensor]
    noisy: Mapping[str, Tensor]
    order: tuple[str, ...]
    recorded: tuple[Event, ...]

    @property
    def noise(self) -> Tensor:
        """The noise ``[D]``: what was released less the sums."""
        return torch.cat([(self.noisy[name] - total).flatten() for name, total in self.sums.items()])

    @property
    def norm(self) -> float:
        """The L2 norm, over all sums, of the sums before noise."""
        return math.hypot(*(float(total.norm()) for total in self.sums.values()))

    def distance(self, other: Release) -> float:
        """Return the L2 distance, over all sums, of the sums before noise from those of another release."""
        return math.hypot(*(float((total - other.sums[name]).norm()) for name, total in self.sums.items()))


@dataclass(eq=False)
class Transcript:
    """A run as its mechanism and its batches saw it.

    Attributes:
        releases: the releases, in their order.
        batches: whose views were made, sum by sum: by the id of each example, a digest of its views and
            targets.
        norms: the norms of the gradients that were summed, by sum: by the id of each example, the norm and
            the loss.
    """

    releases: list[Release] = field(default_factory=list)
    batches: list[dict[int, bytes]] = field(default_factory=list)
    norms: list[Mapping[int, tuple[float, float]]] = field(default_factory=list)


@contextmanager
def recorded(
    replayed: Transcript | None = None, mechanisms: Sequence[type[Mechanism]] = OURS
) -> Iterator[Transcript]:
    """Yield a transcript, which is written of this thread's runs while this lasts. The clock stands still, so
    that no time differs.

    Args:
        replayed: the transcript of an earlier run. The mechanisms then hand out that run's releases.
        mechanisms: the classes whose releases are written down.
    """
    transcript = Transcript()
    views, clipped_sum = PrivateTrainer.views, PrivateTrainer.clipped_sum
    releasing: list[Mechanism] = []  # one mechanism may release by another

    def watched_release(
        release: Callable[..., dict[str, Tensor]],
        mechanism: Mechanism,
        sums: Mapping[str, Tensor],
        account: Recorder,
        random: RandomSource,
    ) -> dict[str, Tensor]:
        if releasing:
            return release(mechanism, sums, account, random)
        order: list[str] = []
        watched = _WatchedAccount(account, order)
        releasing.append(mechanism)
        try:
            noisy = release(mechanism, sums, watched, _WatchedRandom(random, order))
        finally:
            releasing.clear()
        number = len(transcript.releases)
        transcript.releases.append(
            Release(mechanism, _copies(sums), _copies(noisy), tuple(order), tuple(watched.recorded))
        )
        if replayed is None or number >= len(replayed.releases):
            return noisy
        earlier = replayed.releases[number].noisy
        if {name: t.shape for name, t in earlier.items()} != {name: t.shape for name, t in noisy.items()}:
            return noisy
        return {name: earlier[name].to(total) for name, total in noisy.items()}

    def watched_views(
        trainer: PrivateTrainer, examples: Tensor, labels: Tensor, ids: Tensor, keys: StepKeys
    ) -> tuple[Tensor, Tensor]:
        made, targets = views(trainer, examples, labels, ids, keys)
        digests = (_digest(*one) for one in zip(made.cpu(), targets.cpu(), strict=True))
        transcript.batches[-1] |= dict(zip(ids.tolist(), digests, strict=True))
        return made, targets

    def watched_sum(trainer: PrivateTrainer, batch: Batch | UnitBatch, keys: StepKeys) -> ClippedSum:
        transcript.batches.append({})  # whose views are made some at a time
        found = clipped_sum(trainer, batch, keys)
        figures = zip(found.norms.tolist(), found.losses.tolist(), strict=True)
        transcript.norms.append(dict(zip(batch.ids.tolist(), figures, strict=True)))
        return found

    with ExitStack() as patches:
        for kind in mechanisms:
            patches.enter_context(mock.patch.object(kind, "release", _method(watched_release, kind.release)))
        patches.enter_context(mock.patch.object(PrivateTrainer, "clipped_sum", watched_sum))
        patches.enter_context(mock.patch.object(PrivateTrainer, "views", watched_views))
        patches.enter_context(mock.patch.object(time, "monotonic", return_value=0.0))
        yield transcript


def _method(watched: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands for a method: ``watched`` of the original, the object and its arguments."""
    return lambda itself, *arguments: watched(original, itself, *arguments)


def _digest(views: Tensor, targets: Tensor) -> bytes:
    """Return the digest of one example's views and targets, to the bit."""
    sha256 = hashlib.sha256()
    for tensor in (views, targets):
        sha256.update(repr((tensor.dtype, tensor.shape)).encode())
        sha256.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return sha256.digest()


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().double().clone() for name, tensor in tensors.items()}


class _WatchedAccount:
    """An account that says when it has recorded."""

    def __init__(self, account: Recorder, order: list[str]) -> None:
        self.recorded: list[Event] = []
        self._account, self._order = account, order

    def record(self, event: Event) -> None:
        self._account.record(event)
        self.recorded.append(event)
        self._order.append("recorded")


class _WatchedRandom(RandomSource):
    """A source that says when it is drawn from."""

    def __init__(self, source: RandomSource, order: list[str]) -> None:
        self.is_private = source.is_private
        self._source, self._order = source, order

    def at(self, purpose: str, step: int) -> RandomSource:
        return _WatchedRandom(self._source.at(purpose, step), self._order)

    def bytes(self, count: int) -> bytes:
        if self._order[-1:] != ["drawn"]:
            self._order.append("drawn")
        return self._source.bytes(count)
