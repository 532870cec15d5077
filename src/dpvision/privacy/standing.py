"""What counts against the limits that hold for images, what a run would bring it to, and what still fits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dpvision.privacy.accounting import epsilon, noise_beside
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import BudgetExceeded, named_option
from dpvision.privacy.events import Event, gaussian_event
from dpvision.privacy.facts import Unit
from dpvision.privacy.roles import PROTECTED, Role


@dataclass(frozen=True)
class Limit:
    """What an owner of images allows in total on each of them.

    Attributes:
        budget: the limit.
        ledger: the file that it is written in.
        of_all: whether it holds for the whole data set of a run, or for images that are part of it.
    """

    budget: Budget
    ledger: Path
    of_all: bool = True


@dataclass(frozen=True)
class Standing:
    """Images, or units, on which the same was spent and for which the same limits hold.

    Attributes:
        images: how many there are, of images or units.
        counted: all that counts for each of them: what closed runs spent and open ones reserved, merged.
        limits: the limits of all their owners.
        elsewhere: how many of the runs that count are in ledgers of other data sets.
        unit: whether they are units.
        role: what each of them is to a run on all of them.
    """

    images: int
    counted: tuple[Event, ...]
    limits: tuple[Limit, ...] = ()
    elsewhere: int = 0
    unit: Unit = "image"
    role: Role = PROTECTED

    def epsilon(self, at: Budget, planned: Sequence[Event] = ()) -> float:
        """Compute the ε of what counts, and of what is planned besides, at a budget's δ and relation."""
        events = [*self.counted, *self.role.cost(planned)]
        return epsilon(events, at.delta, at.neighboring_relation)


@dataclass(frozen=True)
class Outcome:
    """What the images come to whose limit is used up the most.

    Attributes:
        standing: these images, before.
        limit: the limit.
        epsilon: the ε that they come to, at the limit's δ and relation.
        images: how many come to it.
    """

    standing: Standing
    limit: Limit
    epsilon: float
    images: int = 0

    @property
    def is_allowed(self) -> bool:
        """Whether the limit holds."""
        return self.epsilon <= self.limit.budget.epsilon


def outcome(standings: Sequence[Standing], planned: Sequence[Event] = ()) -> Outcome | None:
    """Say what a run with this plan brings the worst image to; None where no limit holds."""
    found = [Outcome(one, limit, one.epsilon(limit.budget, planned)) for one, limit in _limited(standings)]
    top = max(found, key=lambda one: one.epsilon / one.limit.budget.epsilon, default=None)
    if top is None:
        return None
    like = (one for one in found if (one.limit, one.epsilon) == (top.limit, top.epsilon))
    return replace(top, images=sum(one.standing.images for one in like))


def worst(standings: Sequence[Standing], at: Budget, planned: Sequence[Event] = ()) -> tuple[float, Standing]:
    """Return the ε of the images on which the most was spent (or would be, with what is planned) at a
    budget's δ and relation, and these images.
    """
    spent = [(one.epsilon(at, planned), one) for one in standings]
    most, standing = max(spent, key=lambda found: found[0])
    return most, replace(standing, images=sum(one.images for epsilon, one in spent if epsilon == most))


def check_limits(standings: Sequence[Standing], planned: Sequence[Event]) -> None:
    """Raise BudgetExceeded where a run with this plan would exceed a limit."""
    found = outcome(standings, planned)
    if found is None or found.is_allowed:
        return
    limit = found.limit.budget
    if found.limit.of_all and not found.standing.elsewhere:
        whom, whose = "the data set", "its"
    else:
        whom = f"{found.images} of the {found.standing.unit}s, some of them as parts of other data sets,"
        whose = "their"
    fits = round_down(largest_fit(standings, limit))
    rest = (
        f"one Gaussian release of epsilon {fits:g} would fit (dpvision plan says how much of this method)"
        if fits
        else "nothing fits any more"
    )
    to = _above(found.epsilon, limit.epsilon)
    raise BudgetExceeded(
        f"this run would bring {whom} to epsilon {to} at delta {limit.delta:g}, over {whose} "
        f"owner's limit of {limit.epsilon:g}; {rest}, or close abandoned runs (ledger {found.limit.ledger})."
    )


def check_first(standings: Sequence[Standing]) -> None:
    """Raise BudgetExceeded where an earlier run has spent something on one of the images, or still may."""
    spent = [one for one in standings if one.counted]
    if spent:
        count, what = sum(one.images for one in spent), spent[0].unit
        raise BudgetExceeded(
            f"earlier runs have learned from {count} of the {what}s, and this one would spend more on them, "
            f"which the ledger adds up; {named_option('again', True)} insists."
        )


def largest_fit(standings: Sequence[Standing], at: Budget) -> float:
    """Compute the largest ε that one further run may have so that every limit holds for every image and unit.

    It is that of a run of one Gaussian release: compositions do not add up, so how much of a method fits
    depends on the method (`least_noise` knows it), by little.

    Args:
        standings: what counts, with a limit somewhere.
        at: whose δ and relation ε is stated at.

    Returns:
        An ε that fits, close to the largest: never above it, as the accountant counts. 0 where nothing fits.
    """
    noise = least_noise(standings, lambda sigma: [gaussian_event(sigma)])
    return epsilon([gaussian_event(noise)], at.delta, at.neighboring_relation) if noise < math.inf else 0.0


def least_noise(standings: Sequence[Standing], stages: Callable[[float], Sequence[Event]]) -> float:
    """Find the least noise multiplier with which a run fits within every limit of every image.

    Args:
        standings: what counts, with a limit somewhere.
        stages: from a noise multiplier to everything that the run would release, as for
            `calibrate_noise_multiplier`.

    Returns:
        The noise multiplier; ∞ where no noise will do.
    """
    # The tightest first: the noise that it needs is then, as a rule, enough for the others.
    limited = sorted(
        _limited(standings),
        key=lambda one: one[0].epsilon(one[1].budget) / one[1].budget.epsilon,
        reverse=True,
    )
    noise = 0.0
    for standing, limit in limited:
        fits = noise > 0 and standing.epsilon(limit.budget, stages(noise)) <= limit.budget.epsilon
        if not fits:
            noise = max(noise, noise_beside(standing.counted, partial(_cost, standing, stages), limit.budget))
        if noise == math.inf:
            break
    return noise


def _above(epsilon: float, limit: float) -> str:
    """Write an ε above a limit with as many digits, from four on, as show that it is."""
    texts = (f"{epsilon:.{digits}g}" for digits in range(4, 17))
    return next((text for text in texts if float(text) > limit), repr(epsilon))


def round_down(epsilon: float, digits: int = 4) -> float:
    """Round an ε down to so many significant digits."""
    if epsilon <= 0:
        return 0.0
    unit = 10.0 ** (digits - 1 - math.floor(math.log10(epsilon)))
    return math.floor(epsilon * unit) / unit


def _cost(
    standing: Standing, stages: Callable[[float], Sequence[Event]], noise_multiplier: float
) -> Sequence[Event]:
    return standing.role.cost(stages(noise_multiplier))


def _limited(standings: Sequence[Standing]) -> list[tuple[Standing, Limit]]:
    return [(one, limit) for one in standings for limit in one.limits]
