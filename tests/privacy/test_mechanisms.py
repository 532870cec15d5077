from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from dpvision.privacy import (
    BudgetExceeded,
    FullBatch,
    GaussianSumMechanism,
    InputError,
    PoissonSampler,
    SecureRandom,
    SeededRandom,
    gaussian_event,
)


class Recorder:
    """Keeps what was recorded, and looks at the random source at that moment."""

    def __init__(self, random=None):
        self.events = []
        self.random = random
        self.drawn_before = None

    def record(self, event):
        self.events.append(event)
        self.drawn_before = getattr(self.random, "drawn", None)


class Refusal:
    def record(self, event):
        raise BudgetExceeded("no.")


class CountingRandom(SeededRandom):
    """Counts the bytes drawn from it."""

    drawn = 0

    def bytes(self, count):
        self.drawn += count
        return super().bytes(count)


MECHANISM = GaussianSumMechanism(1.5, 2.0, PoissonSampler(1000, 0.1))


def test_the_noise_has_the_stated_scale():
    sums = {"weight": torch.full((300, 1000), 5.0), "bias": torch.zeros(200_000)}
    released = MECHANISM.release(sums, Recorder(), SecureRandom())
    noise = torch.cat([(released[name] - sums[name]).flatten() for name in sums]).double()
    for scale, accepted in ((1.0, True), (0.97, False), (1.03, False)):
        assert (kstest(noise.numpy() * scale / 3.0, "norm").pvalue > 1e-6) == accepted


def test_noise_is_added_exactly_once_and_differs_everywhere():
    sums = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    released = MECHANISM.release(sums, Recorder(), SeededRandom(1).at("noise", 7))
    random = SeededRandom(1).at("noise", 7)
    for name, total in sums.items():
        assert torch.allclose(released[name], total + 3.0 * random.normal(total.shape), rtol=0, atol=1e-6)
    noise = torch.cat([(released[name] - sums[name]).flatten() for name in sums])
    assert len(noise.unique()) == 17


def test_one_event_is_recorded_before_any_noise_is_drawn():
    random = CountingRandom(1)
    recorder = Recorder(random)
    MECHANISM.release({"a": torch.zeros(10), "b": torch.zeros(10)}, recorder, random)
    assert recorder.events == [gaussian_event(1.5, 0.1)]
    assert recorder.drawn_before == 0
    assert random.drawn > 0


def test_a_refused_event_draws_no_noise():
    random = CountingRandom(1)
    with pytest.raises(BudgetExceeded):
        MECHANISM.release({"a": torch.zeros(10)}, Refusal(), random)
    assert random.drawn == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sum_without_bounded_sensitivity_is_refused_before_it_is_recorded(value):
    recorder, sums = Recorder(), {"a": torch.zeros(4)}
    sums["a"][2] = value
    with pytest.raises(FloatingPointError, match="'a'"):
        MECHANISM.release(sums, recorder, SecureRandom())
    assert recorder.events == []


def test_a_sum_beyond_float32_is_refused_before_it_is_recorded():
    recorder = Recorder()
    with pytest.raises(FloatingPointError, match="'a'"):
        MECHANISM.release({"a": torch.tensor([1e39], dtype=torch.float64)}, recorder, SecureRandom())
    assert recorder.events == []


@pytest.mark.parametrize("total", [0.0, 1e-9, 1.0, 1.0000003])
def test_what_is_released_is_on_one_grid_whatever_the_sums(total):
    """With σ = 3 the grid is 2⁻²¹."""
    sums = {"a": torch.full((10_000,), total, dtype=torch.float64)}
    multiples = MECHANISM.release(sums, Recorder(), SecureRandom())["a"].double() * 2.0**21
    assert torch.equal(multiples, multiples.round())
    assert (multiples % 2 == 1).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_releases_float32_whatever_the_sums_are(dtype):
    total = torch.ones(6, dtype=dtype)
    released = MECHANISM.release({"a": total}, Recorder(), SeededRandom(1))["a"]
    assert released.dtype == torch.float32
    assert torch.equal(total, torch.ones(6, dtype=dtype)), "the input was changed"
    # The noise itself must not be rounded to the sums' precision.
    assert torch.allclose(released - 1, 3.0 * SeededRandom(1).normal((6,)), rtol=0, atol=1e-6)


def test_the_sampler_states_the_event():
    sampler = FullBatch(100)
    assert GaussianSumMechanism(4.0, 1.0, sampler).event == gaussian_event(4.0)
    unsampled = GaussianSumMechanism(4.0, 3**0.5, sampler, replace_one_ratio=2**0.5)
    assert unsampled.event == gaussian_event(4.0, 1.0, 1, 2**0.5)


@pytest.mark.parametrize(("noise", "sensitivity"), [(0.0, 1.0), (1.0, 0.0), (1.0, float("inf")), (1.0, -1.0)])
def test_refuses_impossible_mechanisms(noise, sensitivity):
    with pytest.raises(InputError):
        GaussianSumMechanism(noise, sensitivity, FullBatch(10))


@pytest.mark.parametrize("sensitivity", [1e-31, 1e31, 5e-324, 1e308])
def test_refuses_noise_that_float32_cannot_hold(sensitivity):
    with pytest.raises(InputError, match="standard deviation"):
        GaussianSumMechanism(1.0, sensitivity, FullBatch(10))
    with pytest.raises(InputError, match="standard deviation"):
        GaussianSumMechanism(1e9, 1e300, FullBatch(10))
