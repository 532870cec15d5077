"""The bounds of ε by losses on a grid, against closed forms, the integral and dp_accounting."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from dpvision.privacy import epsilon, gaussian_event, loss_bracket
from dpvision.privacy.loss_bracket import bracket
from dpvision.privacy.second_accountant import exact_gaussian, numerical

RELATIONS = ["add_or_remove_one", "replace_one"]


def nearly_all(sigma, count):
    """Releases over samples of nearly all, so that they are not taken together as one Gaussian."""
    return gaussian_event(sigma, 1 - 1e-14, count)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
@pytest.mark.parametrize(("sigma", "count"), [(0.5, 3), (1, 10), (30, 2), (30, 1000)])
def test_the_exact_gaussian_is_within(relation, delta, sigma, count):
    found = bracket([nearly_all(sigma, count)], delta, relation)
    exact = exact_gaussian([gaussian_event(sigma, count=count)], delta, relation)
    assert found.low <= exact * (1 + 1e-9)
    assert exact * (1 - 1e-9) <= found.high
    assert found.is_narrow


def one_release(sigma, q, relation, delta):
    """ε of a single release: its hockey-stick divergence beyond the place where the loss passes ε."""
    v = -1 if relation == "replace_one" else 0

    def log_ratio(x):
        ratio = [
            np.logaddexp(math.log1p(-q), math.log(q) + (2 * x * mean - mean**2) / (2 * sigma**2))
            for mean in (1, v)
        ]
        return ratio[0] - (ratio[1] if v else 0.0)

    def hockey_stick(eps):
        x = brentq(lambda x: log_ratio(x) - eps, -60 * sigma**2 - 5, 60 * sigma**2 + 5)
        beyond = [norm.sf(x, mean, sigma) for mean in (0, 1, v)]
        return (1 - q) * beyond[0] + q * beyond[1] - math.exp(eps) * ((1 - q) * beyond[0] + q * beyond[2])

    return brentq(lambda eps: hockey_stick(eps) - delta, 1e-9, 40, xtol=1e-13)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(
    ("sigma", "q"), [(0.3, 0.01), (0.5, 0.5), (0.5, 1e-4), (1, 1e-3), (1, 0.1), (2, 0.9), (5, 0.3)]
)
def test_a_single_release_costs_its_hockey_stick_divergence(relation, sigma, q):
    found = bracket([gaussian_event(sigma, q)], 1e-5, relation)
    assert found.low == pytest.approx(one_release(sigma, q, relation, 1e-5), rel=1e-6)
    assert found.high == pytest.approx(found.low, rel=1e-7)
    assert found.low <= found.high


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(
    ("sigma", "q", "count"), [(1.0, 0.01, 1000), (0.8, 0.1, 30), (9.13, 0.08192, 875), (5, 0.08, 1000)]
)
def test_it_holds_what_the_integral_finds(relation, sigma, q, count):
    """Two ways of which neither takes anything from the other."""
    events = [gaussian_event(sigma, q, count)]
    found, integral = bracket(events, 1e-5, relation), numerical(events, 1e-5, relation)
    assert found.low <= integral.epsilon + integral.error
    assert integral.epsilon - integral.error <= found.high
    assert found.is_narrow


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("delta", [1e-8, 1e-5, 1e-3])
@pytest.mark.parametrize(("sigma", "q", "count"), [(1.0, 0.25, 6), (0.5, 1e-3, 30), (0.3, 0.01, 5)])
def test_pld_is_just_above_where_the_integral_does_not_converge(relation, delta, sigma, q, count):
    events = [gaussian_event(sigma, q, count)]
    found = bracket(events, delta, relation)
    assert found.is_narrow
    assert found.low <= epsilon(events, delta, relation) * (1 + 1e-9)
    assert epsilon(events, delta, relation) <= 1.001 * found.low


@pytest.mark.parametrize("relation", RELATIONS)
def test_stages_of_several_kinds(relation):
    events = [
        gaussian_event(8.0, replace_one_ratio=1.4),
        gaussian_event(1.1, 0.1, 6),
        gaussian_event(3, 0.3, 4),
    ]
    found = bracket(events, 1e-5, relation)
    assert found.is_narrow
    assert found.low <= epsilon(events, 1e-5, relation) <= 1.001 * found.low
    apart = [events[0], events[1].times(2), events[1].times(4), *[events[2].times(1)] * 4]
    again = bracket(apart, 1e-5, relation)
    assert again.low <= found.high
    assert found.low <= again.high
    assert bracket(events[1:], 1e-5, relation).high < found.low


@pytest.mark.parametrize("pair", ["remove", "add", "replace"])
@pytest.mark.parametrize(("sigma", "q"), [(0.4, 0.01), (1, 0.25), (1, 1e-4), (4, 1.0)])
def test_the_grid_is_on_either_side_of_one_release(pair, sigma, q):
    """At every ε the curve of the rounded losses is above, or below, that of the release."""
    if q == 1 and pair != "remove":
        return
    kind = loss_bracket._Kind(pair, sigma, q, 1)
    step = 0.01 * min(1.0, q)
    upper, lower = loss_bracket._on_grid(kind, step, 9.0)
    for eps in kind.loss(0.0) + step * np.array([-3.3, -0.5, 0.0, 0.2, 0.7, 1.4, 5.5, 30.2, 300.9]):
        place = kind.place(np.array([eps]))
        if not np.isfinite(place).all():
            continue
        ends = (np.array([-np.inf]), place) if pair == "add" else (place, np.array([np.inf]))
        log_p, log_q = kind.log_masses(*ends)
        exact = float(np.exp(log_p[0]) - np.exp(eps + log_q[0]))

        def curve(rounded, eps=eps):
            loss = rounded.offset + step * rounded.losses
            return float(np.exp(rounded.log_mass) @ np.maximum(-np.expm1(eps - loss), 0))

        assert curve(lower) <= exact * (1 + 1e-9) + 1e-15
        assert exact <= curve(upper) * (1 + 1e-9) + 3e-19
        assert curve(upper) - curve(lower) < 2 * step


@pytest.mark.parametrize("relation", RELATIONS)
@given(
    sigma=st.floats(math.log(0.3), math.log(30)).map(math.exp),
    drawn=st.floats(math.log(1e-2), math.log(3)).map(math.exp),
    count=st.floats(0, math.log(1000)).map(math.exp).map(int),
    log_delta=st.floats(-8, -2),
)
@settings(max_examples=4, deadline=None)
def test_low_is_below_high_and_pld(relation, sigma, drawn, count, log_delta):
    event, delta = gaussian_event(sigma, min(drawn / count, 0.9), count), 10**log_delta
    found = bracket([event], delta, relation)
    assert 0 <= found.low <= found.high
    assert found.low <= epsilon([event], delta, relation) * (1 + 1e-6)


def test_what_costs_nothing():
    assert bracket([], 1e-5, "replace_one") == loss_bracket.Bracket(0, 0)
    found = bracket([gaussian_event(1e5, 0.01, 3)], 1e-3, "replace_one")
    assert found.low == 0
    assert found.high < 1e-9
    assert found.is_narrow


def test_it_shares_no_code_with_the_first():
    tree = ast.parse(Path(loss_bracket.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in imported if name.split(".")[0] in ("dpvision", "dp_accounting")}
    assert ours == {"dpvision.privacy.second_accountant"}
