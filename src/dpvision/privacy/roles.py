"""What a run costs an image, or a unit, that is not what the run protects.

A run protects images or units (all images of a patient, say), and so does the owner's limit of a ledger. They
need not agree: other runs on the same images may protect the others. By what a run guarantees:

- **An image, by a run that protects units.** The image joins, leaves or changes. Then the content of its unit
  changes, or its unit joins or leaves. The cost is the larger of the two.
- **A unit, by a run that protects images**, of which k are the unit's. They all join or leave, or all change:
  a group of k.
- **A unit, by a run that knows its images by other units.** k images are in at most k of these, each of which
  changes, joins or leaves: a group of k, each of them at the larger cost.

**Groups.** Of Gaussian noise on a sum over all, a group of k is noise of multiplier σ/k. Over a Poisson
sample of rate q, `sampled_group` has the divergences of the worst pairs. For larger groups, and in the trials
of a selection, whose bound holds with whatever a trial costs, one example does in place of the group: at
multiplier σ/k and rate 1 − (1−q)^k.

*Proof.* Let r = 1 − (1−q)^k be the probability that the set S of those that are drawn is not empty. With u_S
and v_S of norm at most |S| ≤ k, as there, the pair of distributions is the mean, with weights w_S/r over all
other S, of the pairs

    (1−r)·N(0, σ²I) + r·N(u_S, σ²I)   against   (1−r)·N(0, σ²I) + r·N(v_S, σ²I).

Hockey-stick divergences are jointly convex, so that none exceeds the largest of these pairs: those of one
example at rate r whose vector has norm k at most. `sampled_gaussian` has the worst, for both relations. ∎

Of events of other kinds nothing is known, and what is not known is infinite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import dp_accounting
import numpy as np

from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event, GaussianEvent, PoissonGaussianEvent, SelectionEvent
from dpvision.privacy.sampled_group import renyi_bound_of_group


@dataclass(frozen=True)
class Role:
    """What an image or a unit is to a run.

    Attributes:
        size: how many of what the run protects change with it, at most.
        mixed: whether these may join, leave or change, whichever the relation.
    """

    size: int = 1
    mixed: bool = False

    @property
    def is_own(self) -> bool:
        """Whether it is what the run protects."""
        return self == PROTECTED

    def cost(self, events: Iterable[Event]) -> tuple[Event, ...]:
        """Return what these events of the run cost it, as events that are written nowhere."""
        if self.is_own:
            return tuple(events)
        return tuple(CostToOther(one.single, self.size, self.mixed, count=one.count) for one in events)


_LARGEST_GROUP = 10
"""The largest group whose divergences are computed: of larger ones they take longer, and are large."""

PROTECTED = Role()
"""What a run protects."""


@dataclass(frozen=True)
class CostToOther(Event):
    """What ``count`` releases cost an image or a unit that is not what they protect.

    Guarantee: the Rényi divergences are those of the module's bounds.
    ``tests/privacy/test_roles.py`` compares them with pairs of distributions.

    Attributes:
        event: one release, as the run states it.
        size, mixed: as of a `Role`.
    """

    kind: ClassVar[str] = "cost to other"  # which no ledger holds
    noise: ClassVar[str] = "noise for others"
    has_pair: ClassVar[bool] = False

    event: Event
    size: int
    mixed: bool

    def scaled(self, scale: float) -> Self:
        """Return the same with ``scale`` times the noise."""
        return replace(self, event=self.event.scaled(scale))

    def to_dp_event(self, neighboring_relation: NeighboringRelation) -> dp_accounting.DpEvent:
        """Raise InputError: what it costs others is composed by Rényi divergences alone."""
        raise InputError("what a run costs others is composed by Rényi divergences alone.")

    def renyi_divergences(
        self, orders: Sequence[float], neighboring_relation: NeighboringRelation
    ) -> np.ndarray:
        """Compute the bound of the module for each order; ∞ where nothing is known."""
        relation = "replace_one" if self.mixed else neighboring_relation
        if type(self.event) is PoissonGaussianEvent and self.size <= _LARGEST_GROUP:
            sigma, rate = self.event.noise_multiplier, self.event.sample_rate
            return self.count * renyi_bound_of_group(sigma, rate, self.size, tuple(orders), relation)
        try:
            one = of_group(self.event, self.size)
        except InputError:  # of an unknown kind, or hardly any noise is left
            return np.full(len(orders), np.inf)
        return self.count * one.renyi_divergences(orders, relation)

    @property
    def largest_loss(self) -> float:
        """That of the event."""
        return self.event.largest_loss

    def to_json(self) -> dict[str, Any]:
        """Return what tells it from others. It cannot be read back, so that no ledger takes it."""
        return {"kind": self.kind, "event": [self.event.to_json()], "size": self.size, "mixed": self.mixed}


def of_group(event: Event, size: int) -> Event:
    """Return an event of one example that costs, under each relation, at least what this one costs a group of
    so many; and by replacing at least what it does by adding or removing.

    Raises:
        InputError: none is known.
    """
    if isinstance(event, SelectionEvent):
        trials = [[of_group(one, size) for one in trial] for trial in event.trials]
        return SelectionEvent.of(trials, event.mean).times(event.count)
    if type(event) is GaussianEvent:
        ratio = max(event.replace_one_ratio, 1.0)
        return GaussianEvent(event.noise_multiplier / size, ratio, count=event.count)
    if type(event) is PoissonGaussianEvent:
        rate = -np.expm1(size * np.log1p(-event.sample_rate))
        if rate >= 1:
            return GaussianEvent(event.noise_multiplier / size, count=event.count)
        return replace(event, noise_multiplier=event.noise_multiplier / size, sample_rate=float(rate))
    raise InputError(f"what events of kind {event.kind!r} cost a group is not known.")
