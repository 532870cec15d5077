"""What is drawn for many examples is drawn for some of them at a time, and comes to the same."""

from __future__ import annotations

import sys

import pytest
import torch

from checks.fuzzing.watch import peak_bytes, reset_peak
from dpvision.privacy import PoissonSampler, SeededRandom, by_example
from dpvision.privacy.by_example import distinct_ids

MANY = 4_000_000


@pytest.mark.parametrize("at_a_time", [1, 2, 7, 60])
def test_how_many_are_drawn_at_a_time_moves_no_draw(monkeypatch, at_a_time):
    ids, key = torch.randperm(50), SeededRandom(0).by_example()

    def drawn():
        draws = key.of(ids)
        return [draws.uniform(3), draws.bernoulli(0.4), draws.uniform(0), draws.uniform(5)]

    expected = drawn()
    monkeypatch.setattr(by_example, "WORDS_AT_A_TIME", at_a_time)
    assert all(map(torch.equal, drawn(), expected))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched by Linux's /proc")
def test_a_batch_of_many_takes_less_memory_than_their_ids():
    ids, sampler = torch.arange(MANY).flip(0), PoissonSampler(MANY, 0.001)
    sampler.sample(SeededRandom(0), ids)
    before = reset_peak()
    batch = sampler.sample(SeededRandom(0), ids)
    assert 3500 < len(batch) < 4500
    assert peak_bytes() - before <= 0.6 * ids.nbytes
    before = reset_peak()
    assert distinct_ids(ids, MANY, "made") is ids
    assert peak_bytes() - before <= 1.5 * ids.nbytes
