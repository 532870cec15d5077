"""Fingerprints of images, under a key, by which changed copies are known again.

A fingerprint is ten numbers: projections of the image's sketch on random directions, which are drawn from
the key. The distance of two is about that of the sketches (Achlioptas 2003), whatever the key.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

FINGERPRINT_BYTES = 10

UNITS = 100
"""The length of a sketch in the units of a fingerprint. One number in 10,000 is beyond ±127, and is cut."""

BLOCK = 2**14  # sketches that are held in single precision

Fingerprints = NDArray[np.int8]
"""Fingerprints [N, 10]. All zeros: none, of an image that shows nothing."""


def fingerprints_of(sketches: NDArray[np.float16], key: bytes) -> Fingerprints:
    """Compute the fingerprints, under a key, of sketches [N, D], which have norm one or are zero."""
    shape = sketches.shape[1], FINGERPRINT_BYTES
    drawn = hashlib.shake_256(b"directions of fingerprints" + key).digest(-(-shape[0] * shape[1] // 8))
    signs = np.unpackbits(np.frombuffer(drawn, dtype=np.uint8), count=shape[0] * shape[1]).reshape(shape)
    directions = (2 * signs.astype(np.float32) - 1) * (UNITS / FINGERPRINT_BYTES**0.5)
    found = np.empty((len(sketches), FINGERPRINT_BYTES), dtype=np.int8)
    for start in range(0, len(sketches), BLOCK):
        numbers = sketches[start : start + BLOCK].astype(np.float32) @ directions
        found[start : start + BLOCK] = np.clip(np.rint(numbers), -127, 127)
    return found
