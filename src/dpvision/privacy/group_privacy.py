"""What holds for a person with several images where each image is protected by itself.

Data sets that differ by k images (by their presence, or by their content) are joined by a chain of k + 1,
each a neighbour of the next. So:

**Of anything.** If δ₁(ε₁) is the least δ that holds with ε₁ for neighbours, then k images have ε = k·ε₁ at δ
= δ₁(ε₁)·(1 + e^{ε₁} + … + e^{(k−1)·ε₁}), by applying it k times. Of all ε₁ with which that is not above the δ
that is asked for, the least is taken.

**Of Gaussian noise on a sum over all examples.** The sums are at most k times as far apart: noise of
multiplier σ is, for k images, noise of multiplier σ/k.

**Of Gaussian noise on a sum over a Poisson sample** the worst pairs of distributions are known:
`dpvision.privacy.sampled_group` has them and the proof. Where images join or leave, the composition of these
pairs is computed, and nothing better holds but for the grid. Where they are replaced, Rényi divergences are
composed; likewise of selections, by `dpvision.privacy.roles`. Of that and the first the smaller counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import cast, get_args

import numpy as np
from dp_accounting import NeighboringRelation as Relation
from dp_accounting.dp_event import GaussianDpEvent, MixtureOfGaussiansDpEvent
from dp_accounting.pld import PLDAccountant
from numpy.typing import NDArray
from scipy.stats import binom

from dpvision.privacy.accounting import epsilon, privacy_profile, renyi_profile, rounding_slack
from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event, GaussianEvent, GaussianSumEvent, merge_events
from dpvision.privacy.events.gaussian import loss_at_ten_deviations
from dpvision.privacy.roles import Role

SIZES = (2, 5, 10)
"""The numbers of images of one person that a card has a bound for."""

LARGEST = 100.0
"""The ε beyond which a bound says nothing that anyone could use."""

_GRID, _EPSILONS = 10_000, 2_000
"""How many losses of one release, and how many ε₁, are told apart: either way the result is a bound."""


def group_epsilons(
    events: Iterable[Event],
    delta: float,
    neighboring_relation: NeighboringRelation = "add_or_remove_one",
    sizes: Sequence[int] = SIZES,
) -> dict[int, float]:
    """Compute the ε that the composition of all events satisfies at δ for groups of so many examples.

    It is an upper bound; ∞ where none of at most `LARGEST` was found.

    >>> from dpvision.privacy import gaussian_event
    >>> found = group_epsilons([gaussian_event(noise_multiplier=10.0)], delta=1e-5)
    >>> {size: round(value, 2) for size, value in found.items()}
    {2: 0.73, 5: 1.99, 10: 4.38}

    Args:
        events, delta, neighboring_relation: as for `dpvision.privacy.epsilon`.
        sizes: numbers of examples, at least 1.
    """
    merged = merge_events(events)
    found = dict.fromkeys(sizes, math.inf)
    for size in sorted(sizes):
        bound = _bound(merged, size, delta, neighboring_relation)
        if bound > LARGEST:
            break  # more images have no less
        found[size] = bound
    return found


def _bound(
    events: tuple[Event, ...], size: int, delta: float, neighboring_relation: NeighboringRelation
) -> float:
    if not events:
        return 0.0
    if size == 1:
        return epsilon(events, delta, neighboring_relation)
    if all(type(event) is GaussianEvent for event in events):
        try:
            return epsilon([one.scaled(1 / size) for one in events], delta, neighboring_relation)
        except InputError:  # hardly any noise is left
            return math.inf
    sums = tuple(cast("GaussianSumEvent", one) for one in events if type(one) in get_args(GaussianSumEvent))
    if len(sums) == len(events) and neighboring_relation == "add_or_remove_one":
        return _by_mixtures(sums, size, delta)
    by_divergences = epsilon(Role(size).cost(events), delta, neighboring_relation)
    return min(by_divergences, _by_chain(events, size, delta, neighboring_relation))


@lru_cache(maxsize=64)
def _by_mixtures(events: tuple[GaussianSumEvent, ...], size: int, delta: float) -> float:
    """Compose the worst pairs of Gaussian sums, some of them over samples."""
    usable = delta - rounding_slack(events)
    if usable <= 0:
        return math.inf
    rough = size * epsilon(events, delta)
    # Eight times the step of `accounting`, and no more losses than take half a second: with little noise, and
    # where hardly anyone is drawn, the bound is then above the least by up to a quarter.
    step = 0.1 * rough / math.sqrt(sum(event.roundings for event in events) * math.log(1 / delta))
    largest = max(loss_at_ten_deviations(size / event.noise_multiplier) for event in events)
    pld = PLDAccountant(Relation.ADD_OR_REMOVE_ONE, max(step, 2 * largest / _GRID))
    for event in events:
        pld.compose(_of_group(event, size), event.count)
    with np.errstate(over="ignore"):  # of e^ε, where it says that ε is infinite
        return float(pld.get_epsilon(usable))


def _of_group(event: GaussianSumEvent, size: int) -> GaussianDpEvent | MixtureOfGaussiansDpEvent:
    """Return one release of a sum for the accountant, where so many examples differ. Where all are in it, no
    mixture: of a single law the accountant may fail to find the tails.
    """
    if event.sample_rate == 1:
        return GaussianDpEvent(event.noise_multiplier / size)
    drawn = np.arange(size + 1)
    weights = binom.pmf(drawn, size, event.sample_rate)
    # Tuples, for the accountant compares an event with the one before it.
    return MixtureOfGaussiansDpEvent(event.noise_multiplier, tuple(drawn.astype(float)), tuple(weights))


def _by_chain(
    events: tuple[Event, ...], size: int, delta: float, neighboring_relation: NeighboringRelation
) -> float:
    """Find the least ε by what holds for neighbours, applied ``size`` times."""
    least = epsilon(events, delta, neighboring_relation)
    if not 0 < least <= LARGEST / size:
        return size * least
    epsilons, deltas = _profile(events, least, neighboring_relation)
    enough = deltas * np.expm1(size * epsilons) / np.expm1(epsilons) <= delta
    enough &= size * epsilons <= LARGEST
    return size * float(epsilons[enough.argmax()]) if enough.any() else math.inf


@lru_cache(maxsize=16)
def _profile(
    events: tuple[Event, ...], least: float, neighboring_relation: NeighboringRelation
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values of ε₁ from the least on, as far as they are of use for two examples, and a δ of each."""
    epsilons = np.geomspace(least, LARGEST / 2, _EPSILONS)
    deltas = renyi_profile(events, epsilons, neighboring_relation)
    if all(event.has_pair for event in events):
        deltas = np.minimum(deltas, privacy_profile(events, epsilons, neighboring_relation))
    return epsilons, deltas
