"""Very many images are entered in the index some at a time, and found again as few are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from checks.fuzzing.watch import peak_bytes, reset_peak
from dpvision.privacy import Ledger, gaussian_event, names
from dpvision.privacy.fingerprint import FINGERPRINT_BYTES
from dpvision.privacy.image_index import IDENTITY_BYTES, ImageIndex, IndexedImages
from dpvision.privacy.names import in_order, names_of, rows_of

MANY = 200_000
PLAN = [gaussian_event(4.0, 0.01, 1000)]


def test_names_are_those_given_in_an_array_and_in_order(monkeypatch):
    given = [os.urandom(7) + bytes(1) for _ in range(100)]
    array, others = names_of(given, 8), names_of((bytes([number]) for number in range(100)), 1)
    assert array.tolist() == given
    assert rows_of(np.frombuffer(b"".join(given), np.uint8).reshape(-1, 8)).tolist() == given
    assert names_of([], 8).tolist() == list(in_order(names_of([], 8))) == []
    for at_a_time in (1, 7, 100, 1000):
        monkeypatch.setattr(names, "AT_A_TIME", at_a_time)
        assert list(in_order(array)) == [(one, None) for one in sorted(given)]
        assert list(in_order(array, others)) == sorted(zip(given, others.tolist(), strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched by Linux's /proc")
@pytest.mark.parametrize("units", [False, True])
def test_admitting_takes_little_more_than_what_is_admitted(tmp_path: Path, units: bool):
    """A list of as many objects of Python would take 65 bytes of each, and one of pairs 130."""
    random = np.random.default_rng(0)
    index = ImageIndex(tmp_path / "images")
    index.cells(names_of([bytes(IDENTITY_BYTES)], IDENTITY_BYTES))  # all that is made or imported once
    prints = random.integers(1, 100, (MANY, FINGERPRINT_BYTES), dtype=np.int8)
    digests = rows_of(random.integers(0, 256, (MANY, 32), dtype=np.uint8))
    before = reset_peak()
    whose = index.identities_of_units(digests) if units else None
    images = IndexedImages(index, index.identities(digests), prints, whose)
    unit = "unit" if units else "image"
    for run in ("first", "again"):
        digest = run.encode().hex().ljust(64, "0")
        ledger = Ledger.for_dataset(tmp_path / f"{run}.jsonl", digest, MANY, unit)
        with index.admitting(run, ledger, PLAN, images):
            ledger.open_run(run, PLAN)
    assert sum(cell.size for cell in index.cells(images.identities)) == MANY
    assert len(index.private_besides(images.identities[:10])) == MANY - 10
    held = images.identities.nbytes * (2 if units else 1)
    assert peak_bytes() - before <= held + 100 * MANY
