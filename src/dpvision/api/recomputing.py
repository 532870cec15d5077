"""Compute the ε of a release anew, by the second accountant too, and compare that with what it states."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, get_args

from dpvision.api.verifying_cards import Check
from dpvision.images.files import reading

MOST_EVENTS = 32
"""The most kinds of events that are composed: a run has one for each of its stages."""

LARGEST = 2.0**63
"""The largest number that is read: whole ones can be larger than what is computed with."""

_BY_SELECTION = "the bound on a selection"
_SELECTION_TOLERANCE = 1e-4
"""The most by which the second accountant's δ of a trial is uncertain, and so ε."""

PLD_TOLERANCE = 0.01
_RDP_TOLERANCE = 0.05
"""How far ε by PLD may differ from that stated, for versions of dp-accounting differ; and how far above the
bound from Rényi divergences ε may be stated, for large ε are stated from a coarser bound.
"""


def recomputed(stated: Mapping[str, Any]) -> tuple[dict[str, float | None], list[Check]]:
    """Return ε by every accountant, and whether that stated fits them."""
    from dpvision.privacy.events import Event, UnknownEvent  # here: it takes seconds to import

    try:
        with reading("an event of the release"):
            events = [Event.from_json(one["event"]) for one in stated["events"]]
    except UnknownEvent as error:
        return {}, [Check("events", False, f"epsilon cannot be recomputed: {error}")]
    with warnings.catch_warnings():
        # Where the integral does not converge, its numbers overflow first.
        warnings.simplefilter("ignore", RuntimeWarning)
        return _compared(events, stated)


def _compared(events: list[Any], fields: Mapping[str, Any]) -> tuple[dict[str, float | None], list[Check]]:
    from dpvision.privacy.accounting import epsilon
    from dpvision.privacy.events import GaussianSumEvent, SelectionEvent
    from dpvision.privacy.second_accountant import renyi

    selections = [event for event in events if isinstance(event, SelectionEvent)]
    sums = [event for event in events if not isinstance(event, SelectionEvent)]
    of_trials = [one for event in selections for trial in event.trials for one in trial]
    if not all(type(event) in get_args(GaussianSumEvent) for event in (*sums, *of_trials)):
        return {}, [
            Check("events", False, "epsilon cannot be recomputed: the second accountant knows none such")
        ]
    stated, delta, relation = (fields[name] for name in ("epsilon", "delta", "neighboring_relation"))
    by_pld = epsilon(events, delta, relation)
    if selections:
        by_renyi, epsilons, independently = _with_selections(selections, sums, stated, delta, relation)
    else:
        by_renyi = renyi(events, delta, relation)
        epsilons, independently = _independently(events, stated, delta, relation, by_renyi)
    near = abs(stated - by_pld) <= PLD_TOLERANCE * by_pld + 1e-6
    told, least = _told_by_rdp(fields), _least_known(epsilons)
    modest = stated <= (1 + _RDP_TOLERANCE) * by_renyi + 1e-6
    epsilons |= {"pld": by_pld, "renyi": _finite(by_renyi)}
    return epsilons, [
        independently,
        Check("epsilon, as stated", near, f"{stated:.6g} stated, {by_pld:.6g} by PLD"),
        Check(
            "epsilon, not above RDP",
            modest,
            f"{stated:.6g} stated, at most {by_renyi:.6g} by Rényi divergences",
        ),
        Check(
            "epsilon by RDP, no less",
            told >= (1 - PLD_TOLERANCE) * least - 1e-6,
            f"{told:.6g} stated by RDP, {least:.6g} independently",
        ),
    ]


def _least_known(epsilons: Mapping[str, float | None]) -> float:
    """Return what the second accountant found, or its lower bound."""
    names = ("exact Gaussian", "integral", "grid, rounded down", _BY_SELECTION)
    found = (epsilons.get(name) for name in names)
    return next((one for one in found if one is not None), 0.0)


def _told_by_rdp(fields: Mapping[str, Any]) -> float:
    """Return the bound by Rényi divergences that is stated; not a number where none is."""
    accountant = fields["accountant"]
    told = accountant.get("epsilon_by_rdp") if isinstance(accountant, dict) else None
    return float(told) if isinstance(told, int | float) and abs(told) <= LARGEST else math.nan


def _independently(
    events: list[Any], stated: float, delta: float, relation: Any, by_renyi: float
) -> tuple[dict[str, float | None], Check]:
    """Return ε by the second accountant, and whether that stated is at least as large.

    The integral does not converge where hardly anyone is sampled, and would take long to say so.
    """
    from dpvision.privacy.loss_bracket import bracket
    from dpvision.privacy.second_accountant import FEW_DRAWN, exact_gaussian, numerical

    def check(enough: bool, found: str) -> Check:
        return Check("epsilon, independently", enough, f"{stated:.6g} stated, {found}")

    exact = exact_gaussian(events, delta, relation)
    epsilons: dict[str, float | None] = {"exact Gaussian": exact, "integral": None}
    if exact is not None:
        return epsilons, check(stated >= exact * (1 - 1e-9), f"{exact:.6g} by the closed form")
    sampled = [event for event in events if event.sample_rate < 1]
    drawn = sum(event.count * event.sample_rate for event in sampled)
    found = numerical(events, delta, relation) if drawn > FEW_DRAWN else None
    if found:
        epsilons["integral"] = found.epsilon
        return epsilons, check(stated >= found.epsilon - found.error, f"{found.epsilon:.6g} by the integral")
    bounds = bracket(events, delta, relation)
    epsilons |= {"grid, rounded down": bounds.low, "grid, rounded up": _finite(bounds.high)}
    if bounds.is_narrow:
        return epsilons, check(stated >= bounds.low, f"{bounds.low:.8g} to {bounds.high:.8g} by a grid")
    least = min(bounds.high, by_renyi)
    return epsilons, check(
        stated >= least, f"at least {bounds.low:.6g} and at most {least:.6g} by a grid and Rényi divergences"
    )


def _with_selections(
    selections: list[Any], sums: list[Any], stated: float, delta: float, relation: Any
) -> tuple[float, dict[str, float | None], Check]:
    """Return the bound of the second accountant where settings were tuned, and whether ε is at least that."""
    from dpvision.privacy.second_selection import renyi_with_selections

    found = renyi_with_selections(selections, sums, delta, relation)
    enough = stated >= (1 - _SELECTION_TOLERANCE) * found
    said = f"{stated:.6g} stated, {found:.6g} by the bound on a selection"
    return found, {_BY_SELECTION: _finite(found)}, Check("epsilon, independently", enough, said)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
