"""The second accountant against closed forms, dp_accounting, and the PRV accountant."""

from __future__ import annotations

import math
import warnings
from time import perf_counter

import dp_accounting
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from dpvision.privacy import epsilon, gaussian_event
from dpvision.privacy.second_accountant import LARGEST_ERROR, exact_gaussian, numerical, renyi

RELATIONS = ["add_or_remove_one", "replace_one"]


def known(events, delta, relation="add_or_remove_one"):
    found = numerical(events, delta, relation)
    assert found is not None
    assert found.error <= LARGEST_ERROR * found.epsilon
    return found.epsilon


@pytest.mark.parametrize("count", [1, 10, 1000, 10**5, 10**7])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-2])
def test_the_closed_form_is_that_of_dp_accounting(count, delta):
    sigma = 3 * count**0.5
    theirs = dp_accounting.get_epsilon_gaussian(sigma / count**0.5, delta)
    assert exact_gaussian([gaussian_event(sigma, count=count)], delta, "add_or_remove_one") == pytest.approx(
        theirs, rel=1e-7
    )


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("ratio", [2.0, 1.3])
@pytest.mark.parametrize(("sigma", "count"), [(0.3, 3), (1, 1), (30, 1), (100, 10_000), (3000, 10**7)])
def test_the_integral_is_exact_of_gaussians(relation, ratio, sigma, count):
    events = [gaussian_event(sigma, count=count, replace_one_ratio=ratio)]
    assert known(events, 1e-5, relation) == pytest.approx(exact_gaussian(events, 1e-5, relation), rel=1e-7)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("sigma", "count"), [(0.5, 3), (1, 10), (30, 1), (100, 10_000), (3000, 10**7)])
def test_a_sample_of_nearly_all_costs_what_all_do(relation, sigma, count):
    sampled, whole = gaussian_event(sigma, 1 - 1e-12, count), gaussian_event(sigma, count=count)
    assert exact_gaussian([sampled], 1e-5, relation) is None
    assert known([sampled], 1e-5, relation) == pytest.approx(
        exact_gaussian([whole], 1e-5, relation), rel=1e-6
    )


def log_ratio(x, sigma, q, v):
    """log dP/dQ of one release; Q's mixture is at v."""

    def mixture(mean):
        return math.log((1 - q) + q * math.exp((2 * x * mean - mean**2) / (2 * sigma**2)))

    return mixture(1) - (mixture(v) if v else 0.0)


def one_release(sigma, q, relation, delta):
    """ε of a single release: its hockey-stick divergence, split where the loss, increasing in x, passes ε."""
    v = -1 if relation == "replace_one" else 0

    def hockey_stick(eps):
        x = brentq(lambda x: log_ratio(x, sigma, q, v) - eps, -60 * sigma**2 - 5, 60 * sigma**2 + 5)
        beyond = [norm.sf(x, mean, sigma) for mean in (0, 1, v)]
        return (1 - q) * beyond[0] + q * beyond[1] - math.exp(eps) * ((1 - q) * beyond[0] + q * beyond[2])

    return brentq(lambda eps: hockey_stick(eps) - delta, 1e-9, 40, xtol=1e-12)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("sigma", "q"), [(0.3, 0.01), (0.5, 0.5), (1, 0.1), (2, 0.9), (5, 0.3)])
def test_a_single_release_costs_its_hockey_stick_divergence(relation, sigma, q):
    found = known([gaussian_event(sigma, q)], 1e-5, relation)
    assert found == pytest.approx(one_release(sigma, q, relation, 1e-5), rel=1e-6)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize(
    ("sigma", "q", "count"),
    [(0.3, 0.01, 5), (0.6, 0.001, 10_000), (1, 0.1, 2), (9.13, 0.08192, 875), (5, 0.08, 1000)],
)
def test_pld_is_above_and_near(relation, delta, sigma, q, count):
    """The discretised accountant is an upper bound, within a thousandth."""
    events = [gaussian_event(sigma, q, count)]
    found = known(events, delta, relation)
    assert found * (1 - 1e-7) <= epsilon(events, delta, relation) <= 1.001 * found


@pytest.mark.parametrize("relation", RELATIONS)
def test_stages_of_several_kinds(relation):
    events = [
        gaussian_event(8.0, replace_one_ratio=1.4),
        gaussian_event(1.1, 0.02, 300),
        gaussian_event(3.0, 0.3, 40),
        gaussian_event(0.8, 1e-4, 10_000),
    ]
    found = known(events, 1e-5, relation)
    assert found * (1 - 1e-7) <= epsilon(events, 1e-5, relation) <= 1.001 * found
    apart = [event.times(event.count // 2) for event in events[1:]] * 2
    assert known([events[0], *apart], 1e-5, relation) == pytest.approx(found, rel=1e-7)
    assert known(events[1:], 1e-5, relation) < found


@pytest.mark.parametrize(("sigma", "q", "count"), [(1.0, 0.01, 1000), (0.8, 0.1, 30)])
def test_within_the_bounds_of_the_prv_accountant(sigma, q, count):
    """Gopi, Lee and Wutschitz (arXiv 2106.02848) state a lower and an upper bound."""
    from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

    mechanism = PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=sigma)
    theirs = PRVAccountant([mechanism], max_self_compositions=[count], eps_error=1e-2, delta_error=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        low, _, high = theirs.compute_epsilon(1e-5, [count])
    assert low <= known([gaussian_event(sigma, q, count)], 1e-5) <= high


@pytest.mark.parametrize("relation", RELATIONS)
@given(
    sigma=st.floats(math.log(0.3), math.log(100)).map(math.exp),
    q=st.one_of(st.just(1.0), st.floats(math.log(1e-5), 0).map(math.exp)),
    count=st.floats(0, math.log(1e6)).map(math.exp).map(int),
    log_delta=st.floats(-9, -2),
)
@settings(max_examples=10, deadline=None)
def test_more_noise_fewer_releases_and_a_larger_delta_cost_less(relation, sigma, q, count, log_delta):
    delta, event = 10**log_delta, gaussian_event(sigma, q, count)
    started = perf_counter()
    found = numerical([event], delta, relation)
    assert perf_counter() - started < 30
    assume(found is not None)
    least, most = found.epsilon - found.error, found.epsilon + found.error
    assert least <= renyi([event], delta, relation)
    assert least <= epsilon([event], delta, relation) * (1 + 1e-9)
    for cheaper, at in (
        (event.scaled(1.1), delta),
        (event.times(max(1, count // 2)), delta),
        (event, 1.5 * delta),
    ):
        less = numerical([cheaper], at, relation)
        assert less is None or less.epsilon - less.error <= most + 1e-12


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(
    ("sigma", "q", "count"), [(1.0, 0.01, 1000), (0.5, 0.1, 2), (30, 1.0, 1), (5, 0.08, 1000)]
)
def test_renyi_is_the_least_bound_of_its_kind(relation, sigma, q, count):
    events = [gaussian_event(sigma, q, count)]
    found, theirs = renyi(events, 1e-5, relation), epsilon(events, 1e-5, relation, "rdp")
    assert known(events, 1e-5, relation) < found <= theirs * (1 + 1e-6)


@pytest.mark.parametrize(
    "event", [gaussian_event(1e-3, 0.5, 10), gaussian_event(100, 0.01), gaussian_event(0.02, 0.1, 10**7)]
)
def test_what_does_not_converge_is_not_known(event):
    assert numerical([event], 1e-5, "add_or_remove_one") is None
    assert renyi([event], 1e-5, "add_or_remove_one") > 0


def test_nothing_costs_nothing():
    assert numerical([], 1e-5, "replace_one").epsilon == 0
    assert renyi([], 1e-5, "replace_one") == 0
    assert exact_gaussian([], 1e-5, "replace_one") == 0
    assert exact_gaussian([gaussian_event(1e9)], 1e-5, "replace_one") == 0


def test_it_shares_no_code_with_the_first():
    import ast
    from pathlib import Path

    import dpvision.privacy.second_accountant as module

    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if name.split(".")[0] in ("dpvision", "dp_accounting")]
