from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, norm, poisson

from dpvision.privacy import SecureRandom, SeededRandom, gaussian

SOURCES = [SecureRandom, lambda: SeededRandom(1)]


def has_scale(sample, scale):
    """Kolmogorov–Smirnov against N(0, scale²); a false alarm has probability 1e-6."""
    return kstest(sample.double().numpy() / scale, "norm").pvalue > 1e-6


@pytest.mark.parametrize("source", SOURCES)
def test_normal_has_unit_scale_to_within_three_percent(source):
    sample = source().normal((500, 1000)).flatten()
    assert sample.dtype == torch.float32
    assert has_scale(sample, 1.0)
    assert not has_scale(sample * 0.97, 1.0)
    assert not has_scale(sample * 1.03, 1.0)


def test_normal_has_its_tails():
    sample = SeededRandom(2).normal((3_000_000,)).abs()
    for bound in (3.0, 4.0, 4.9):
        expected = 2 * norm.sf(bound) * len(sample)
        low, high = poisson.ppf([1e-6, 1 - 1e-6], expected)
        assert low <= (sample > bound).sum() <= high
    assert sample.isfinite().all()


@pytest.mark.parametrize("byte", [b"\x00", b"\xff"])
def test_normal_is_finite_at_the_ends_of_the_uniform(monkeypatch, byte):
    random = SeededRandom(1)
    monkeypatch.setattr(random, "bytes", lambda count: byte * count)
    assert random.normal((4,)).isfinite().all()


def test_the_coordinates_of_a_normal_are_independent():
    """Also within the pairs that Box and Muller's method makes, and their squares."""
    sample = SeededRandom(3).normal((1 << 18,)).double()
    for lag in (1, 2, 1 << 16, 1 << 17):
        for values in (sample, sample.square() - 1):
            correlation = (values[lag:] * values[:-lag]).mean() / values.var()
            assert abs(correlation) < 5 / (len(values) - lag) ** 0.5


def test_the_blocks_of_a_large_tensor_are_independent():
    """They are made 2¹⁸ numbers at a time."""
    block = 1 << 18
    sample = SeededRandom(3).normal((3 * block,)).double()
    for lag in (block, 2 * block):
        correlation = (sample[lag:] * sample[:-lag]).mean()
        assert abs(correlation) < 5 / (len(sample) - lag) ** 0.5


def test_how_many_roundings_are_undecided_moves_no_other_draw(monkeypatch):
    refined, count = [], 1_000_000
    right = gaussian.refined_pair
    monkeypatch.setattr(gaussian, "refined_pair", lambda *given: refined.append(given) or right(*given))
    one, other = SeededRandom(0), SeededRandom(0)
    one.add_normal(torch.zeros(count), 1.0)
    of_zeros = len(refined)
    other.add_normal(torch.linspace(-1, 1, count), 1.0)
    assert of_zeros != len(refined) - of_zeros  # it depends on the sums
    assert one.bytes(16) == other.bytes(16)


def test_uniform_fills_the_unit_interval():
    sample = SeededRandom(4).uniform((300_000,))
    assert sample.dtype == torch.float64
    assert sample.min() >= 0
    assert sample.max() < 1
    assert kstest(sample.numpy(), "uniform").pvalue > 1e-6
    lowest_bits = (sample * 2.0**53).long() % 256
    counts = torch.bincount(lowest_bits, minlength=256).double()
    expected = len(sample) / 256
    assert chi2.sf(float(((counts - expected) ** 2 / expected).sum()), 255) > 1e-6


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7, 3), (2, 0, 4)])
def test_shapes(shape):
    random = SeededRandom(5)
    assert random.normal(shape).shape == shape
    assert random.uniform(shape).shape == shape


def test_seeded_draws_depend_only_on_seed_purposes_and_steps():
    first = SeededRandom(6).at("noise", 3).normal((5,))
    elsewhere = SeededRandom(6)
    elsewhere.normal((100,))
    assert torch.equal(elsewhere.at("noise", 3).normal((5,)), first)
    for other in (
        SeededRandom(7).at("noise", 3),
        SeededRandom(6).at("noise", 4),
        SeededRandom(6).at("sampling", 3),
        SeededRandom(6),
        SeededRandom(6).at("part", 1).at("noise", 3),
        SeededRandom(6).at("noise", 3).at("noise", 3),
    ):
        assert not torch.equal(other.normal((5,)), first)


def test_a_stream_goes_on_where_it_stopped():
    whole, pieces = SeededRandom(8), SeededRandom(8)
    assert whole.bytes(100) == pieces.bytes(33) + pieces.bytes(67)


def test_only_the_secure_source_is_private():
    assert SecureRandom().is_private
    assert SecureRandom().at("noise", 1).is_private
    assert not SeededRandom(1).is_private
    assert not SeededRandom(1).at("noise", 1).is_private


def test_the_secure_source_never_repeats():
    random = SecureRandom()
    draws = {random.at("noise", step).bytes(16) for step in (0, 0, 1, 1)}
    draws |= {SecureRandom().at("noise", 0).bytes(16) for _ in range(4)}
    assert len(draws) == 8


def test_a_key_is_the_systems_entropy_and_nothing_else(monkeypatch):
    """No time, process or counter, which others could guess: for the same entropy the stream is the same."""
    asked = []

    def entropy(count):
        asked.append(count)
        return bytes(range(count))

    monkeypatch.setattr(os, "urandom", entropy)
    assert SecureRandom().bytes(100) == SecureRandom().bytes(100)
    assert asked == [32, 32]


def test_the_global_generators_decide_nothing():
    def draws():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        source = SecureRandom()
        return source.normal((8,)), source.uniform((8,)), source.by_example().of(torch.arange(8)).uniform(1)

    for one, other in zip(draws(), draws(), strict=True):
        assert not torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_a_stream_of_its_own():
    random = SecureRandom()
    random.bytes(16)
    reader, writer = os.pipe()
    for _ in range(2):
        child = os.fork()
        if child == 0:
            os.write(writer, random.bytes(16))
            os._exit(0)
        os.waitpid(child, 0)
    children = os.read(reader, 16), os.read(reader, 16)
    os.close(reader), os.close(writer)
    assert len({random.bytes(16), *children}) == 3
