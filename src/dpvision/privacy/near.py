"""Which fingerprints are near to some of many others, without comparing all with all.

Locality-sensitive hashing: two are compared when they are on the same side of each of 20 random planes, for
one of eight times 20 (Charikar, STOC 2002). The planes go through the median of the queries, so that there
are some on either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpvision.privacy.fingerprint import FINGERPRINT_BYTES, UNITS, Fingerprints

BANDS = 8
BAND_BITS = 20

MOST_OF_A_BUCKET = 32
"""Queries in one bucket that a fingerprint is compared with. Bounds the work where nearly all are alike."""

FEW = 4096  # queries that medians are taken of
BLOCK = 2**13  # fingerprints that are compared with all queries at a time: at most some 40 MiB for a band


class Lookup:
    """Finds the pairs of queries, which are held, and other fingerprints, which pass by, that are near.

    It takes time and memory in proportion to both. A few in a hundred pairs at the very radius are missed,
    nearer ones less often, and more where more than 32 queries are in one bucket.

    Args:
        queries: those that are held.
        degrees: the greatest angle of the sketches of a pair, about.
    """

    def __init__(self, queries: Fingerprints, degrees: float) -> None:
        self._queries = queries.astype(np.float32)
        self._most = (UNITS * np.radians(degrees)) ** 2
        random = np.random.default_rng(0)
        self._planes = random.standard_normal((FINGERPRINT_BYTES, BANDS * BAND_BITS)).astype(np.float32)
        known = np.flatnonzero(queries.any(axis=1)).astype(np.int32)
        some = self._queries[known[:: max(1, len(known) // FEW)]]
        self._middle = np.median(some @ self._planes, axis=0) if len(some) else np.zeros(BANDS * BAND_BITS)
        self._bands = [self._sorted(known, band) for band in range(BANDS)]

    def near(self, others: Fingerprints) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield pairs as the indices of queries and of others, [K] each. A pair may come several times."""
        for first in range(0, len(others), BLOCK):
            block = others[first : first + BLOCK]
            known = np.flatnonzero(block.any(axis=1))
            vectors = block[known].astype(np.float32)
            for band, (buckets, order) in enumerate(self._bands):
                wanted = self._bucket(vectors, band)
                begin = np.searchsorted(buckets, wanted)
                counts = np.searchsorted(buckets, wanted, side="right") - begin
                counts = np.minimum(counts, MOST_OF_A_BUCKET)
                theirs = np.repeat(np.arange(len(known)), counts)
                places = np.arange(len(theirs)) + np.repeat(begin - np.cumsum(counts) + counts, counts)
                ours = order[places]
                steps = self._queries[ours] - vectors[theirs]
                near = np.einsum("ij,ij->i", steps, steps) <= self._most
                yield ours[near].astype(np.int64), known[theirs[near]] + first

    def _sorted(self, known: NDArray[np.int32], band: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the buckets of the known queries in a band, in order, and whose they are."""
        parts = range(0, len(known), BLOCK)
        found = [self._bucket(self._queries[known[start : start + BLOCK]], band) for start in parts]
        buckets = np.concatenate(found) if found else np.empty(0, dtype=np.int32)
        order = np.argsort(buckets, kind="stable")
        return buckets[order], known[order]

    def _bucket(self, vectors: NDArray[np.float32], band: int) -> NDArray[np.int32]:
        """Return the number of each vector's bucket: a bit for each plane of the band."""
        planes = slice(band * BAND_BITS, (band + 1) * BAND_BITS)
        above: NDArray[Any] = vectors @ self._planes[:, planes] > self._middle[planes]
        return (above @ (2.0 ** np.arange(BAND_BITS))).astype(np.int32)
