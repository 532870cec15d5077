"""Random numbers whose unpredictability the guarantee rests on.

Both sources read one keystream, AES-256 in counter mode, and differ only in where its key comes from: the
operating system's entropy, or a seed (which makes the run not private: whoever knows the seed removes the
noise).

What is drawn for examples is not read from this stream in their order, but from a stream of each one's own,
under a key that is: see `dpvision.privacy.by_example`.

Values are computed on the CPU, so a seeded run draws the same numbers on every device and with every number
of threads. How normals are made of the bits, and why the last bits of a released value give nothing away, is
said in `dpvision.privacy.gaussian`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from dpvision.privacy.by_example import KEY_BYTES, ExampleKey
from dpvision.privacy.gaussian import add_gaussian


class RandomSource(ABC):
    """A stream of random bits, and what is drawn from it."""

    is_private: bool
    """True if noise from this source protects anyone: False for a seeded source."""

    _aside: RandomSource | None = None  # for draws of which there are more or fewer, depending on the data

    @abstractmethod
    def at(self, purpose: str, step: int) -> RandomSource:
        """Return the source for one purpose at one step, so that a resumed seeded run repeats its draws."""

    @abstractmethod
    def bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes of the stream."""

    def uniform(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw numbers uniform on [0, 1), multiples of 2⁻⁵³; float64 on the CPU."""
        bits = torch.frombuffer(bytearray(self.bytes(8 * math.prod(shape)) or bytes(8)), dtype=torch.int64)
        bits = bits[: math.prod(shape)].bitwise_and_(2**53 - 1)
        return bits.double().mul_(2.0**-53).reshape(tuple(shape))

    def add_normal(self, sums: torch.Tensor, deviation: float) -> torch.Tensor:
        """Return ``sums`` + N(0, deviation²), exactly distributed but for the result's rounding: see
        `gaussian`.

        Args:
            sums: sums of any shape and floating-point type, on the CPU; not changed.
            deviation: between 1e-30 and 1e30.

        Returns:
            float32, of the same shape.
        """
        self._aside = self._aside or self.at("aside", 0)
        return add_gaussian(sums, deviation, self.bytes, self._aside.bytes)

    def normal(self, shape: Sequence[int]) -> torch.Tensor:
        """Draw standard normal numbers, rounded to multiples of 2⁻²²; float32 on the CPU."""
        return self.add_normal(torch.zeros(tuple(shape)), 1.0)

    def by_example(self) -> ExampleKey:
        """Draw a fresh key, the next bytes of the stream, under which every example has a stream of its own:
        see `dpvision.privacy.by_example`.
        """
        return ExampleKey(self.bytes(KEY_BYTES))


class SecureRandom(RandomSource):
    """A source keyed by the system's entropy. No two objects, processes or calls share any output.

    Guarantee: without the key, what it gives cannot be told from independent uniform bits, as far as AES-256
    and the operating system's entropy hold. The key is never written or shown, and a forked process takes a
    new one. ``tests/privacy/test_noise.py`` forks, copies and reuses sources, and ``python -m checks.noise``
    tests the numbers.
    """

    is_private = True

    def __init__(self) -> None:
        self._rekey()

    def at(self, purpose: str, step: int) -> SecureRandom:
        """Return this source itself: its stream never repeats, whatever it is used for."""
        return self

    def bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes; in a forked child, of a fresh stream."""
        if self._forks != _forks:
            self._rekey()
        return self._keystream.update(bytes(count))

    def _rekey(self) -> None:
        self._keystream = keystream(os.urandom(KEY_BYTES))
        self._forks = _forks


class SeededRandom(RandomSource):
    """A reproducible source, for tests. A run that uses it is not private and says so.

    >>> SeededRandom(1).at("noise", 0).normal((2,)).equal(SeededRandom(1).at("noise", 0).normal((2,)))
    True
    >>> SeededRandom(1).at("noise", 0).normal((2,)).equal(SeededRandom(1).at("noise", 1).normal((2,)))
    False
    """

    is_private = False

    def __init__(self, seed: int, path: tuple[tuple[str, int], ...] = ()) -> None:
        self.seed, self._path = seed, path
        # JSON keeps the parts apart: ("a", 11) and ("a1", 1) must not meet.
        self._keystream = keystream(hashlib.sha256(json.dumps([seed, *path]).encode()).digest())

    def at(self, purpose: str, step: int) -> SeededRandom:
        """Return an independent stream that depends only on the seed and on all (purpose, step) up to it."""
        return SeededRandom(self.seed, (*self._path, (purpose, step)))

    def bytes(self, count: int) -> bytes:
        """Return the next ``count`` bytes of this stream."""
        return self._keystream.update(bytes(count))


class KeyedRandom(SeededRandom):
    """A source that a secret key of 256 bits determines: work that is begun again draws the same numbers.

    Guarantee: without the key, what it gives cannot be told from independent uniform bits, as far as SHA-256,
    by which each purpose and step has a key of its own, and AES-256 hold. Whoever keeps the key keeps it as
    private as the images. ``tests/privacy/test_noise.py`` draws again from a key.
    """

    is_private = True

    def __init__(self, key: bytes, path: tuple[tuple[str, int], ...] = ()) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        super().__init__(int.from_bytes(key, "big"), path)

    def at(self, purpose: str, step: int) -> KeyedRandom:
        """Return an independent stream that depends only on the key and on all (purpose, step) up to it."""
        return KeyedRandom(self.seed.to_bytes(KEY_BYTES, "big"), (*self._path, (purpose, step)))


def random_source(seed: int | None) -> RandomSource:
    """Return the system's source of randomness, or a seeded one, with which a run is not private."""
    return SecureRandom() if seed is None else SeededRandom(seed)


def keystream(key: bytes) -> CipherContext:
    """Return AES-256-CTR from counter 0: encrypting zeros yields the stream. One key serves one
    stream only.
    """
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()


_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


# A forked child inherits the parent's key and position; it must not continue the same stream.
os.register_at_fork(after_in_child=_count_fork)
