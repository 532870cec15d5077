"""Compute the ε that releases cost, and back from a budget the noise that it needs.

The composition is done by dp_accounting: privacy loss distributions (PLD) with pessimistic "connect the dots"
discretisation (Doroshenko et al., arXiv 2207.04380), so that ε is never under-reported, or Rényi differential
privacy (RDP; Mironov et al., arXiv 1908.10530) as an independent, looser cross-check.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Literal, get_args

import dp_accounting
import numpy as np
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import compute_epsilon

from dpvision.privacy.budget import Budget, NeighboringRelation, check_delta, check_relation
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import NOISE_MULTIPLIERS, Event, gaussian_event, merge_events

Accountant = Literal["pld", "rdp"]

_RELATIONS = {
    "add_or_remove_one": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace_one": dp_accounting.NeighboringRelation.REPLACE_ONE,
}
# What FFTs in double precision may take from δ is given away: so much, and so much for each composition.
# The transform of T losses is the T-th power of that of one. A relative error of some units of 2⁻⁵³ in it
# becomes T times as large, and the sum over the grid's tail a few times that: near 10⁻¹⁴·T. The largest that
# was seen is 2.7·10⁻¹⁷·T (tests/privacy/test_accounting.py compares with the exact Gaussian, to T = 10⁷).
_PLD_DELTA_SLACK, _PLD_DELTA_SLACK_OF_ONE = 1e-11, 1e-14
SMALLEST_PLD_DELTA = 1e-9
_PROFILE_DELTA = 1e-5  # near which a whole profile is to be accurate
LARGEST_PLD_EPSILON = 2500.0  # up to here it was compared with the exact ε of Gaussians
_LARGEST_GRID = 200_000
# dp_accounting's own list, and before it orders for ε in the hundreds.
_RDP_ORDERS = (
    *(1.001, 1.002, 1.005, 1.01, 1.02, 1.03, 1.05, 1.07),
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *range(11, 64),
    *(128, 256, 512, 1024),
)
# What calibration may leave unused. Wider than the discretisation error, far below the promised 1 %.
_CALIBRATION_GAP = 0.002
# Of what is left beside what was spent, what may stay unused; and of a budget, what is too little to be
# resolved: the discretisation makes ε uncertain by 1e-4 of it.
_FITTING_GAP = 0.0005
_LEAST_LEFT = 0.0005


def epsilon(
    events: Iterable[Event],
    delta: float,
    neighboring_relation: NeighboringRelation = "add_or_remove_one",
    accountant: Accountant = "pld",
) -> float:
    """Compute the ε that the composition of all events satisfies at δ; an upper bound, 0 for no events.

    Above 2500, where δ is so small that the rounding of so many compositions could count, and where an event
    has no pair of distributions, both accountants state the looser RDP bound.
    The composition may be adaptive: each event's query may depend on earlier results.

    >>> from dpvision.privacy import gaussian_event
    >>> steps = gaussian_event(noise_multiplier=1.1, sample_rate=0.01, count=1000)
    >>> round(epsilon([steps], delta=1e-5), 2), round(epsilon([steps], delta=1e-5, accountant="rdp"), 2)
    (1.52, 1.71)

    Raises:
        InputError: unknown relation or accountant, δ out of range, or δ below 1e-9 with PLD, whose
            floating-point error could then be noticed (RDP has no such limit).
    """
    check_delta(delta)
    check_relation(neighboring_relation)
    if accountant not in get_args(Accountant):
        raise InputError(f"unknown accountant {accountant!r}; choose pld or rdp.")
    if accountant == "pld" and delta < SMALLEST_PLD_DELTA:
        raise InputError(
            f"delta {delta:g} is below {SMALLEST_PLD_DELTA:g}, the least the PLD accountant resolves; "
            "use a larger delta or the rdp accountant."
        )
    merged = merge_events(events)
    if not merged:
        return 0.0
    compose = _pld_epsilon if accountant == "pld" else _rdp_epsilon
    return compose(merged, delta, neighboring_relation)


def privacy_profile(
    events: Iterable[Event], epsilons: np.ndarray, neighboring_relation: NeighboringRelation
) -> np.ndarray:
    """Compute δ for each ε of an ascending array: the composition of all events is (ε, δ)-private, by PLD."""
    merged = merge_events(events)
    check_relation(neighboring_relation)
    pld = _composed(merged, _PROFILE_DELTA, neighboring_relation)
    deltas = np.asarray(pld.get_delta(epsilons), dtype=np.float64)
    return np.minimum(deltas + rounding_slack(merged), 1.0)


def renyi_profile(
    events: Iterable[Event], epsilons: np.ndarray, neighboring_relation: NeighboringRelation
) -> np.ndarray:
    """Compute δ for each ε by Rényi divergences: looser than `privacy_profile` near 1e-5, but of any event,
    and down to any δ (Canonne, Kamath and Steinke, arXiv 2004.00010, Proposition 12).
    """
    check_relation(neighboring_relation)
    divergences = sum(
        event.renyi_divergences(_RDP_ORDERS, neighboring_relation) for event in merge_events(events)
    )
    orders = np.array(_RDP_ORDERS)
    exponents = (orders - 1) * (divergences - epsilons[:, None] + np.log1p(-1 / orders)) - np.log(orders)
    return np.minimum(np.exp(np.minimum(exponents.min(axis=1), 0.0)), 1.0)


def calibrate_noise_multiplier(
    stages: Callable[[float], Sequence[Event]], budget: Budget, accountant: Accountant = "pld"
) -> float:
    """Find the noise multiplier that spends the budget: never more than ε, and at least 99 % of it.

    Args:
        stages: from a noise multiplier to everything that will be released with it; more noise must mean a
            smaller ε. Stages with fixed noise of their own may be among them.
        budget: the target.
        accountant: ``"pld"`` or ``"rdp"``; the same one reports the ε afterwards.

    Raises:
        InputError: the budget cannot be met with any noise, or would be met with next to none.
    """

    def spent(sigma: float) -> float:
        return epsilon(stages(sigma), budget.delta, budget.neighboring_relation, accountant)

    return _solve(spent, budget.epsilon)


def noise_beside(
    counted: Sequence[Event], stages: Callable[[float], Sequence[Event]], budget: Budget
) -> float:
    """Find the least noise multiplier with which stages stay within a budget of which some is spent.

    Args:
        counted: what was spent already.
        stages: as for `calibrate_noise_multiplier`.
        budget: the budget for both together, by PLD.

    Returns:
        A noise multiplier that will do, by less than a thousandth of what is left from the least; ∞ where no
        noise does.
    """

    def total(sigma: float) -> float:
        return epsilon([*counted, *stages(sigma)], budget.delta, budget.neighboring_relation)

    spent = epsilon(counted, budget.delta, budget.neighboring_relation)
    left = budget.epsilon - spent
    if left < _LEAST_LEFT * budget.epsilon:
        return math.inf
    if total(NOISE_MULTIPLIERS[0]) <= budget.epsilon:
        return NOISE_MULTIPLIERS[0]
    try:
        # Not of ε but of what the stages add to it, whose logarithm is nearly linear in that of σ.
        return _solve(lambda sigma: total(sigma) - spent, left, _FITTING_GAP)
    except InputError:
        return math.inf


def calibrate_steps(sample_rate: float, steps: int, budget: Budget, accountant: Accountant = "pld") -> float:
    """Find the noise multiplier for ``steps`` equal releases, as of DP-SGD; see
    `calibrate_noise_multiplier`.

    >>> from dpvision.privacy import Budget
    >>> round(calibrate_steps(sample_rate=0.01, steps=1000, budget=Budget(2.0, 1e-5)), 2)
    0.96
    """
    return calibrate_noise_multiplier(
        lambda sigma: [gaussian_event(sigma, sample_rate, steps)], budget, accountant
    )


@lru_cache(maxsize=256)
def _pld_epsilon(events: tuple[Event, ...], delta: float, neighboring_relation: NeighboringRelation) -> float:
    bound, usable = _rdp_epsilon(events, delta, neighboring_relation), delta - rounding_slack(events)
    if bound > LARGEST_PLD_EPSILON or usable <= 0 or not all(event.has_pair for event in events):
        return bound
    pld = _composed(events, delta, neighboring_relation)
    with np.errstate(over="ignore"):  # of e^ε, where it says that ε is infinite
        return min(bound, float(pld.get_epsilon(usable)))


def rounding_slack(events: tuple[Event, ...]) -> float:
    """Return a bound on what rounding of FFTs may have taken from the δ of the composition."""
    return _PLD_DELTA_SLACK + _PLD_DELTA_SLACK_OF_ONE * sum(event.roundings for event in events)


def _composed(
    events: tuple[Event, ...], delta: float, neighboring_relation: NeighboringRelation
) -> PLDAccountant:
    """Return the privacy loss distribution of all events, on a grid that is fine enough near δ."""
    interval = _discretisation(events, delta, _rdp_epsilon(events, delta, neighboring_relation))
    pld = PLDAccountant(_RELATIONS[neighboring_relation], interval)
    for event in events:
        pld.compose(event.to_dp_event(neighboring_relation))
    return pld


def _discretisation(events: tuple[Event, ...], delta: float, rough_epsilon: float) -> float:
    """Return the grid step h for privacy losses, in nats: fine enough to cost about 1e-4 of ε, no finer.

    Whatever the step, the result is an upper bound; this only decides how tight it is. Rounding spreads each
    of T losses by a variance of about h²/6; near δ the log-tail of the total loss falls with slope about
    2·ln(1/δ)/ε; so h = ε·√(6e-4 / (T·ln(1/δ))) shifts ε by about 1e-4·ε. Halved for safety.
    """
    roundings = sum(event.roundings for event in events)
    fine = 0.012 * rough_epsilon / math.sqrt(roundings * max(math.log(1 / delta), 1.0))
    within_memory = max(event.largest_loss for event in events) / _LARGEST_GRID
    return max(fine, within_memory)


def _rdp_epsilon(events: tuple[Event, ...], delta: float, neighboring_relation: NeighboringRelation) -> float:
    divergences = sum(event.renyi_divergences(_RDP_ORDERS, neighboring_relation) for event in events)
    bound, _ = compute_epsilon(_RDP_ORDERS, divergences, delta)
    return float(bound)


def _solve(epsilon_of: Callable[[float], float], target: float, unused: float = _CALIBRATION_GAP) -> float:
    """Find a σ with (1 − unused)·target ≤ epsilon_of(σ) ≤ target, for a decreasing function.

    First a bracket, then false position: log ε is nearly linear in log σ, so interpolating there needs few
    evaluations. A bisection every third step guarantees progress.
    """
    low = high = 2.0
    epsilon_low = epsilon_high = epsilon_of(high)
    while epsilon_high > target:
        if 2 * high > NOISE_MULTIPLIERS[1]:
            raise InputError(
                f"epsilon {target:g} cannot be reached with any noise (at least {epsilon_high:.4g} is "
                "spent); raise epsilon or take fewer steps."
            )
        low, epsilon_low = high, epsilon_high
        high *= 2
        epsilon_high = epsilon_of(high)
    while epsilon_low < target:
        if low / 2 < NOISE_MULTIPLIERS[0]:
            raise InputError(f"epsilon {target:g} is so large that it needs no noise; choose a smaller one.")
        high, epsilon_high = low, epsilon_low
        low /= 2
        epsilon_low = epsilon_of(low)

    lowest = (1 - unused) * target
    aim = math.log((lowest + target) / 2)
    for attempt in range(200):
        if lowest <= epsilon_high <= target:
            return high
        if attempt % 3 < 2 and 0 < epsilon_high < epsilon_low < math.inf:
            top, bottom = math.log(epsilon_low), math.log(epsilon_high)
            fraction = (top - aim) / (top - bottom)
        else:
            fraction = 0.5
        middle = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
        epsilon_middle = epsilon_of(middle)
        if epsilon_middle > target:
            low, epsilon_low = middle, epsilon_middle
        else:
            high, epsilon_high = middle, epsilon_middle
    raise InputError(f"epsilon {target:g} falls where the accountant jumps; change it slightly.")
