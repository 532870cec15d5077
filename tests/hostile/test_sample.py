"""A sample of what `checks/fuzz.py` does at length: every kind of file, changed at random."""

from __future__ import annotations

import random
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checks.fuzzing.bundles import pack, unpack
from checks.fuzzing.mutations import mutate
from checks.fuzzing.targets import TARGETS
from checks.fuzzing.watch import Watch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched by Linux's /proc")


@cache
def seeds(name: str) -> list[list[bytes]]:
    return TARGETS[name].seeds()


@pytest.mark.parametrize("name", TARGETS)
def test_real_files_are_read(name: str, tmp_path: Path) -> None:
    watch = Watch(TARGETS[name], tmp_path)
    found = [watch.give(pack(parts)) for parts in seeds(name)]
    assert [one.violation for one in found] == [None] * len(found)
    if name != "unfinished":  # whose images are others
        assert not found[0].refused


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 2**32), changes=st.integers(1, 3))
def test_changed_files_are_read_or_refused(name: str, tmp_path: Path, number: int, changes: int) -> None:
    source = random.Random(number)
    parts = list(source.choice(seeds(name)))
    for _ in range(changes):
        at = source.randrange(len(parts))
        parts[at] = mutate(TARGETS[name].kinds[at], parts[at], source)
    found = Watch(TARGETS[name], tmp_path).give(pack(parts))
    assert found.violation is None


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.binary(max_size=30))
def test_bundles(parts: list[bytes], other: bytes) -> None:
    assert unpack(pack(parts), len(parts)) == parts
    assert len(unpack(other, 3)) == 3
