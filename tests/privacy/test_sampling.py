"""The Poisson sampler passes statistical tests that a shuffler, and other wrong samplers, fail."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2, norm

from dpvision.privacy import FullBatch, InputError, PoissonSampler, SecureRandom, SeededRandom, gaussian_event

NUM_EXAMPLES, RATE, STEPS = 100, 0.2, 4000
FALSE_ALARM = 1e-6


def faults(draw):
    """Which properties of Poisson sampling the batches lack; ``draw`` makes one batch of indices."""
    taken = torch.zeros(STEPS, NUM_EXAMPLES, dtype=torch.float64)
    for step in range(STEPS):
        taken[step, draw()] = 1
    variance = RATE * (1 - RATE)
    found = set()

    def check(name, statistic, degrees):
        if not chi2.ppf(FALSE_ALARM, degrees) < float(statistic) < chi2.isf(FALSE_ALARM, degrees):
            found.add(name)

    counts, sizes = taken.sum(0), taken.sum(1)
    if (
        abs(float(counts.sum() / taken.numel()) - RATE)
        > norm.isf(FALSE_ALARM) * (variance / taken.numel()) ** 0.5
    ):
        found.add("rate")
    check("inclusion counts", ((counts - STEPS * RATE) ** 2).sum() / (STEPS * variance), NUM_EXAMPLES)
    check(
        "batch-size variance", ((sizes - NUM_EXAMPLES * RATE) ** 2).sum() / (NUM_EXAMPLES * variance), STEPS
    )
    centred = taken - RATE
    pairs = torch.triu(centred.T @ centred, diagonal=1) / (STEPS**0.5 * variance)  # standard normal, each
    check("pairwise independence", pairs.square().sum(), NUM_EXAMPLES * (NUM_EXAMPLES - 1) // 2)
    consecutive = (centred[1:] * centred[:-1]).sum() / (((STEPS - 1) * NUM_EXAMPLES) ** 0.5 * variance)
    if abs(float(consecutive)) > norm.isf(FALSE_ALARM / 2):
        found.add("independence of consecutive batches")
    return found


@pytest.mark.parametrize("random", [SecureRandom(), SeededRandom(0)], ids=["secure", "seeded"])
def test_poisson_sampler_is_poisson(random):
    sampler = PoissonSampler(NUM_EXAMPLES, RATE)
    assert faults(lambda: sampler.sample(random)) == set()


def test_a_shuffler_fails():
    def batches():
        while True:
            yield from torch.randperm(NUM_EXAMPLES).split(round(NUM_EXAMPLES * RATE))

    shuffler = batches()
    assert {"inclusion counts", "batch-size variance", "independence of consecutive batches"} <= faults(
        lambda: next(shuffler)
    )


def test_batches_of_a_fixed_size_fail():
    assert "batch-size variance" in faults(lambda: torch.randperm(NUM_EXAMPLES)[: round(NUM_EXAMPLES * RATE)])


def test_sampling_neighbours_together_fails():
    def draw():
        return (torch.rand(NUM_EXAMPLES // 2).repeat_interleave(2) < RATE).nonzero().squeeze(1)

    assert "pairwise independence" in faults(draw)


def test_a_rate_three_percent_off_fails():
    sampler, random = PoissonSampler(NUM_EXAMPLES, 1.03 * RATE), SeededRandom(0)
    assert "rate" in faults(lambda: sampler.sample(random))


def test_a_batch_is_indices_in_order_and_may_be_empty():
    batch = PoissonSampler(1000, 0.1).sample(SeededRandom(1))
    assert batch.dtype == torch.int64
    assert torch.equal(batch, batch.unique(sorted=True))
    assert PoissonSampler(3, 1e-6).sample(SeededRandom(1)).shape == (0,)


def test_each_example_enters_by_a_number_of_its_own():
    """Whoever leaves, the first too, and in whatever order they come: the others are in the same batches."""
    sampler, ids = PoissonSampler(100, 0.3), torch.arange(500, 600)

    def members(some, step):
        batch = sampler.over(len(some)).sample(SeededRandom(0).at("batch", step), some)
        return set(some[batch].tolist())

    for step in range(20):
        everyone = members(ids, step)
        assert everyone != members(ids, step + 1)
        for left in (500, 550, 599):
            assert members(ids[ids != left], step) == everyone - {left}
        assert members(ids.flip(0), step) == everyone
    without_ids = sampler.sample(SeededRandom(0))
    assert torch.equal(without_ids, sampler.sample(SeededRandom(0), torch.arange(100)))
    assert torch.equal(FullBatch(100).sample(SeededRandom(0), ids), torch.arange(100))
    for each in (sampler, FullBatch(100)):
        with pytest.raises(InputError, match="100 examples to draw from, but 99 ids"):
            each.sample(SeededRandom(0), ids[1:])


def test_samplers_describe_themselves_exactly():
    poisson = PoissonSampler(50_000, 4096 / 50_000)
    assert poisson.event(9.1) == gaussian_event(9.1, 4096 / 50_000)
    assert poisson.event(9.1, count=875) == gaussian_event(9.1, 4096 / 50_000, 875)
    assert poisson.expected_batch_size == pytest.approx(4096)
    assert PoissonSampler(1437, 0.1).expected_batch_size == pytest.approx(143.7)
    full = FullBatch(10)
    assert full.event(2.0, replace_one_ratio=1.5) == gaussian_event(2.0, 1.0, 1, 1.5)
    assert torch.equal(full.sample(SeededRandom(1)), torch.arange(10))
    assert full.expected_batch_size == 10


def test_what_is_declared_does_not_depend_on_how_many_there_are():
    sampler = PoissonSampler(1000, 0.1)
    there = sampler.over(20_000)
    assert there.event(2.0) == sampler.event(2.0)
    assert (there.num_examples, there.expected_batch_size) == (1000, 100)
    assert (sampler.num_present, there.num_present) == (1000, 20_000)
    assert 1800 < len(there.sample(SeededRandom(1))) < 2200  # of those that are there, not of a thousand
    assert torch.equal(FullBatch(10).over(3).sample(SeededRandom(1)), torch.arange(3))
    assert FullBatch(10).over(3).expected_batch_size == 10
    assert len(sampler.over(0).sample(SeededRandom(1))) == 0  # such as the share of one of several processes
    with pytest.raises(InputError, match="at least 0, not -1"):
        sampler.over(-1)


@pytest.mark.parametrize(
    ("num_examples", "sample_rate"), [(0, 0.1), (10, 0.0), (10, 1.5), (10, float("nan"))]
)
def test_refuses_impossible_samplers(num_examples, sample_rate):
    with pytest.raises(InputError):
        PoissonSampler(num_examples, sample_rate)
