"""One step by several processes: the leader says which, with which keys and weights; all add what their own
examples come to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dpvision.gradients import ClippedSum
from dpvision.parallel import Peers
from dpvision.privacy.by_example import KEY_BYTES, ExampleKey

NO_STEP = -1


@dataclass(frozen=True)
class StepKeys:
    """The keys from which examples draw in one step: whether they are in the batch, for their views, for the
    network's dropout, and, of units, for which of their images these are.
    """

    batch: ExampleKey
    views: ExampleKey
    dropout: ExampleKey
    images: ExampleKey

    def to_bytes(self) -> bytes:
        """Return the keys, one after another. Whoever has them knows who was in the batch."""
        return self.batch.key + self.views.key + self.dropout.key + self.images.key

    @classmethod
    def from_bytes(cls, keys: bytes) -> StepKeys:
        """Return what `to_bytes` wrote."""
        return cls(*(ExampleKey(keys[at : at + KEY_BYTES]) for at in range(0, 4 * KEY_BYTES, KEY_BYTES)))


def announce(peers: Peers, step: int, keys: StepKeys, weights: Sequence[Tensor]) -> None:
    """Tell the followers which step comes next, with its keys and the weights that it begins with."""
    if peers.size > 1:
        words = torch.frombuffer(bytearray(keys.to_bytes()), dtype=torch.int64)
        peers.share([torch.cat([torch.tensor([step]), words])])
        peers.share(weights)


def announce_end(peers: Peers) -> None:
    """Tell the followers that there is no further step."""
    if peers.size > 1:
        peers.share([torch.full((1 + 4 * KEY_BYTES // 8,), NO_STEP)])


def announced(peers: Peers) -> tuple[int, StepKeys] | None:
    """Return which step comes next, and its keys, to a follower, who must then take the weights; None: there
    is none.
    """
    message = torch.empty(1 + 4 * KEY_BYTES // 8, dtype=torch.int64)
    peers.share([message])
    step = int(message[0])
    return None if step == NO_STEP else (step, StepKeys.from_bytes(message[1:].numpy().tobytes()))


def sum_of_all(peers: Peers, own: ClippedSum) -> ClippedSum:
    """Return the clipped sum of all processes' examples, to the leader. A follower gets what means nothing.

    Guarantee: an example adds to it what it adds to the sum of its own process. Additions are in float64, and
    there is one more for each process, which `ROUNDING_MARGIN` covers.
    """
    if peers.size == 1:
        return own
    numbers = own.norms.new_zeros(peers.size + 1, dtype=torch.float64)  # of examples, and of those left out
    numbers[peers.rank], numbers[-1] = len(own.norms), own.nonfinite
    peers.add_up([*own.gradients.values(), numbers])
    *counts, nonfinite = map(int, numbers.tolist())
    seen = peers.rows(torch.stack([own.norms.double(), own.losses.double()], dim=1), counts)
    return ClippedSum(own.gradients, norms=seen[:, 0], losses=seen[:, 1], nonfinite=nonfinite)
