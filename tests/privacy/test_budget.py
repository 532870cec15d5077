from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpvision.privacy import Budget, InputError, default_delta


@pytest.mark.parametrize(
    ("epsilon", "delta", "relation"),
    [
        (0, 1e-5, "add_or_remove_one"),
        (-1, 1e-5, "add_or_remove_one"),
        (math.inf, 1e-5, "add_or_remove_one"),
        (math.nan, 1e-5, "add_or_remove_one"),
        (1, 0, "add_or_remove_one"),
        (1, 1, "add_or_remove_one"),
        (1, math.nan, "add_or_remove_one"),
        (1, 1e-5, "replace"),
    ],
)
def test_refuses_values_out_of_range(epsilon, delta, relation):
    with pytest.raises(InputError):
        Budget(epsilon, delta, relation)


def test_delta_must_be_below_one_over_n():
    Budget(1, 1e-5).check_against(99_999)
    with pytest.raises(InputError, match="1/N"):
        Budget(1, 1e-5).check_against(100_000)


@given(st.integers(1, 10**9))
def test_default_delta_is_the_largest_power_of_ten_at_most_a_tenth_of_one_over_n(num_examples):
    delta = default_delta(num_examples)
    Budget(1, delta).check_against(num_examples)
    assert 10 * delta * num_examples <= 1 + 1e-9
    assert 100 * delta * num_examples > 1 + 1e-9


def test_default_deltas():
    deltas = {1: 1e-1, 9: 1e-2, 10: 1e-2, 11: 1e-3, 999: 1e-4, 1000: 1e-4, 1001: 1e-5, 60_000: 1e-6}
    assert {number: default_delta(number) for number in deltas} == deltas
