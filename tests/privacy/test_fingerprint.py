"""That fingerprints are under a key and keep distances, and that what is near is found."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dpvision.privacy.fingerprint import FINGERPRINT_BYTES, UNITS, Fingerprints, fingerprints_of
from dpvision.privacy.near import Lookup

KEY = b"k" * 32


def sketches(count: int, seed: int = 0) -> NDArray[np.float16]:
    drawn = np.random.default_rng(seed).standard_normal((count, 63))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)


def turned(some: NDArray[np.float16], degrees: float) -> NDArray[np.float16]:
    """Turn unit vectors by an angle, each in a direction of its own."""
    other = sketches(len(some), seed=9).astype(np.float64)
    other -= (other * some).sum(axis=1, keepdims=True) * some
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return (np.cos(np.radians(degrees)) * some + np.sin(np.radians(degrees)) * other).astype(np.float16)


def test_another_key_makes_another_fingerprint() -> None:
    some = sketches(500)
    ours, theirs = fingerprints_of(some, KEY), fingerprints_of(some, b"l" * 32)
    assert (ours == fingerprints_of(some, KEY)).all()
    assert np.linalg.norm(ours.astype(float) - theirs, axis=1).min() > UNITS / 3
    assert not any(one.any() for _, one in pairs_of(Lookup(ours, 4), theirs))


@pytest.mark.parametrize("degrees", [2, 5, 20])
def test_distances_are_those_of_the_sketches(degrees: float) -> None:
    some = sketches(4000)
    steps = fingerprints_of(some, KEY).astype(float) - fingerprints_of(turned(some, degrees), KEY)
    mean = np.sqrt((steps**2).sum(axis=1).mean()) / UNITS
    assert mean == pytest.approx(np.radians(degrees), rel=0.1)


def test_a_sketch_of_nothing_has_no_fingerprint() -> None:
    some = np.zeros((3, 63), np.float16)
    assert not fingerprints_of(some, KEY).any()
    known = np.concatenate([fingerprints_of(some, KEY), fingerprints_of(sketches(5), KEY)])
    assert found(Lookup(known, 180), known) >= {(i, i) for i in range(3, 8)}
    assert all(one >= 3 and other >= 3 for one, other in found(Lookup(known, 180), known))
    assert found(Lookup(known[:3], 180), known) == set()


def pairs_of(lookup: Lookup, others: Fingerprints) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return list(lookup.near(others))


def found(lookup: Lookup, others: Fingerprints) -> set[tuple[int, int]]:
    return {
        (one, other)
        for ours, theirs in lookup.near(others)
        for one, other in zip(ours.tolist(), theirs.tolist(), strict=True)
    }


@pytest.mark.parametrize("spread", [1.0, 0.2])
def test_lookup_finds_what_comparing_all_with_all_finds(spread: float) -> None:
    """Also where all vectors are in one direction, more or less; and none beyond the radius."""
    count = 10_000  # more than a block
    middle = np.eye(63)[0] * (1 - spread)
    some = (sketches(count).astype(float) * spread + middle).astype(np.float16)
    some[100:200] = turned(some[:100], 3)
    ours, theirs = fingerprints_of(some[:300], KEY), fingerprints_of(some[100:], KEY)
    squares = ((ours[:, None].astype(np.int32) - theirs.astype(np.int32)) ** 2).sum(axis=2)
    expected = set(
        zip(*(places.tolist() for places in np.nonzero(squares <= (UNITS * np.radians(4)) ** 2)), strict=True)
    )
    assert len(expected) > 200
    pairs = found(Lookup(ours, 4), theirs)
    assert pairs <= expected
    assert len(pairs) > 0.8 * len(expected)


def test_a_bucket_of_all_does_not_take_all_memory() -> None:
    alike = np.full((50_000, FINGERPRINT_BYTES), 9, np.int8)
    largest = max(len(one) for one, _ in Lookup(alike, 4).near(alike))
    assert largest < 500_000
