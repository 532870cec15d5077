"""Random numbers of each example's own: a function of a key, of the example's id, and of nothing else.

Who else is in the data set, in which order, and how many examples are taken at a time move no draw of an
example. That is what a proof of privacy takes for granted when it says "the sum changes by one clipped
gradient": take one example away, and all others are in the same batches with the same views.

The proof. Take a data set, a neighbour of it, and the same ids for the examples they share. Given the keys of
a step, what an example adds to the sum before noise is a function of the example, its id and the keys. So the
sums of the two differ by what one example adds (where it is replaced, by what the two add), whatever the keys
are. Keys are independent of each other and of the noise, and what they draw for distinct ids is independent
and uniform, as far as AES-256 cannot be told from a random function. So whether that one example is in the
batch does not depend on what all others drew, as the account of the sampler has it. Conditioned on what they
drew, the sum differs by one clipped gradient if the example was sampled, else by nothing.

The construction. The stream of id i under key k is AES-256 in counter mode under k from the counter
(i, 0): block b is the encryption of i and b, 8 bytes each, the most significant first. Distinct ids and
blocks are distinct inputs of one permutation. Its outputs, which never repeat, differ from those of a random
function by at most n²/2¹²⁹ in n blocks (the switching lemma): 2⁻⁸¹ for a step that takes 2²⁴. **Ids must be
distinct within a data set**: two examples of one id draw the same, and are then sampled together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

from dpvision.privacy.errors import InputError

KEY_BYTES = 32

WORDS_AT_A_TIME = 2**18
"""Words of 64 bits that are drawn at a time: those of all examples would take several times what ids do."""


class KeySource(Protocol):
    """What gives a key: a `RandomSource`, which draws it, or a key that was drawn."""

    def by_example(self) -> ExampleKey: ...


@dataclass(frozen=True)
class ExampleKey:
    """A key that gives every example a stream of its own. See `RandomSource.by_example`, which draws one."""

    key: bytes = field(repr=False)

    def by_example(self) -> ExampleKey:
        """Return this key, for whoever asks a source for one: drawn before, it may be known to several."""
        return self

    def of(self, ids: Tensor) -> ExampleDraws:
        """Return the streams of examples with these ids, int64 ``[B]``, from their beginning. B may be 0."""
        return ExampleDraws(self.key, ids)


class ExampleDraws:
    """Numbers that examples draw, each from its own stream.

    Guarantee: what one draws depends on the key, on its id and on how many numbers were drawn before, and on
    nothing else: see the module. ``tests/privacy/test_by_example.py`` takes examples away and moves them.

    >>> all_three = ExampleDraws(bytes(32), torch.tensor([7, 8, 9])).uniform(2)
    >>> without_the_first = ExampleDraws(bytes(32), torch.tensor([9, 8])).uniform(2)
    >>> all_three[2].equal(without_the_first[0])
    True

    Args:
        key: the key of the streams, 32 bytes.
        ids: the ids of the examples, int64 ``[B]``, distinct.
    """

    def __init__(self, key: bytes, ids: Tensor) -> None:
        self._key, self._ids = key, ids.cpu()
        self._drawn = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, some: slice | Tensor) -> ExampleDraws:
        """Return the draws of some of the examples, by a slice or by indices, from their beginning."""
        return ExampleDraws(self._key, self._ids[some])

    def uniform(self, count: int) -> Tensor:
        """Return the next ``count`` numbers of each example, uniform on [0, 1): float32 ``[B, count]`` on the
        CPU, multiples of 2⁻²⁴.
        """
        return self._next(count, lambda words: words.bitwise_and_(2**24 - 1).float().mul_(2.0**-24))

    def bernoulli(self, probability: float) -> Tensor:
        """Draw whether a trial of each example succeeds, with ``probability`` to within 2⁻⁵³: bool ``[B]``.
        Takes one number.
        """

        def succeeds(words: Tensor) -> Tensor:
            return words[:, 0].bitwise_and_(2**53 - 1).double().mul_(2.0**-53) < probability

        return self._next(1, succeeds)

    def _next(self, count: int, made: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what is made of the next ``count`` words of each example, of some examples at a time."""
        parts = self._ids.split(max(1, WORDS_AT_A_TIME // max(1, count)))
        found = torch.cat([made(_words(self._key, ids, self._drawn, count)) for ids in parts])
        self._drawn += count
        return found


def _words(key: bytes, ids: Tensor, first: int, count: int) -> Tensor:
    """Return ``count`` words of 64 bits of each stream, from number ``first`` on: int64 ``[B, count]``."""
    blocks = np.arange(first // 2, (first + count + 1) // 2)
    counters = np.empty((len(ids), len(blocks), 2), dtype=">i8")
    counters[..., 0] = ids.numpy()[:, None]
    counters[..., 1] = blocks
    # ECB, for it is the counters that are encrypted, and no two of them are the same.
    encrypted = Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(counters.tobytes())
    words = np.frombuffer(encrypted, dtype=">i8").astype(np.int64).reshape(len(ids), 2 * len(blocks))
    return torch.from_numpy(words[:, first % 2 :][:, :count])


def distinct_ids(ids: Tensor | None, count: int, source: str) -> Tensor:
    """Return ids of ``count`` examples, on the CPU: those given, or 0 … count − 1.

    Args:
        source: what they are of, for the message.

    Raises:
        InputError: they are not as many, not int64, or not distinct.
    """
    if ids is None:
        return torch.arange(count)
    if ids.dtype != torch.int64 or ids.shape != (count,):
        raise InputError(
            f"{source}: {count} examples need as many int64 ids, got {ids.dtype} of shape {list(ids.shape)}"
        )
    in_order = np.sort(ids.cpu().numpy())
    if (in_order[1:] == in_order[:-1]).any():
        raise InputError(f"{source}: two examples have one id, so would draw the same; give each its own")
    return ids.cpu()
