"""What a run takes up of an earlier one: sums to refine, or a classifier to go on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpvision.api.cost_of_both import cost_of_both
from dpvision.api.pool_cost import warn_of_unknown_spending
from dpvision.api.publishable import verified
from dpvision.api.recomputing import MOST_EVENTS
from dpvision.api.releases import open_earlier
from dpvision.api.sources import lasting
from dpvision.images import ImageSet
from dpvision.images.choices import Choices
from dpvision.methods.continued import FROM_RUN, REFINE, TAKES_UP, parts_of
from dpvision.methods.going_on import GoingOn
from dpvision.methods.method import GUARANTEE, Method
from dpvision.methods.refined import Refined
from dpvision.methods.registry import AUTO, find_method
from dpvision.methods.stages import Calibrated
from dpvision.methods.start import Start, open_start
from dpvision.privacy import Budget, InputError, default_ledger_path
from dpvision.reports.guarantee_file import events_of, is_unpaid, unit_of
from dpvision.runs import RunDirectory
from dpvision.runs.places import is_run


@dataclass(frozen=True, eq=False)
class Earlier:
    """An earlier run that a run takes up.

    Attributes:
        place: the earlier run, or its release.
        setting: the name of the setting that says so.
        method: what takes it up.
        guarantee: that of the earlier release, or its card.
        start: the classifier to go on from, if it is one.
    """

    place: str | os.PathLike[str]
    setting: str
    method: Method
    guarantee: Mapping[str, Any]
    start: Start | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The setting that names it, by its name."""
        return {self.setting: lasting(self.place)}

    def read_likewise(self, choices: Choices) -> Choices:
        """Return how images are read for the classifier to go on from, where ``choices`` leave it open."""
        if self.start is None:
            return choices
        model = self.start.card["model"]
        channels, height, width = model["image_shape"]
        size = height if height == width else None
        given, own = choices.given(), {"size": size, "channels": channels}
        own |= {name: model[name] for name in ("resize", "value_range") if model.get(name) is not None}
        return replace(choices, **{name: value for name, value in own.items() if name not in given})

    def check(self, images: ImageSet, ledger: str | os.PathLike[str] | None, budget: Budget) -> None:
        """Check that it may be taken up by a run on these images, and warn where their ledger lacks it.

        Raises:
            InputError: it protects something else, it is refined on other images, or what both cost together
                would not say much.
        """
        unit = unit_of(self.guarantee)
        if unit != images.protects:
            raise InputError(
                f"{self.place} protects {unit}s and a run on these images {images.protects}s; both must "
                "protect the same"
            )
        if self.start is None:
            self._check_same_images(images)
        else:
            self._check_composes(budget)
        cost_of_both(self.guarantee, self.guarantee)  # refuses a damaged one before anything is spent
        where = Path(ledger or default_ledger_path(images.digest))
        warn_of_unknown_spending(self.guarantee, f"the release of {self.place}", self.place, images, where)

    def check_length(self, stages: Calibrated) -> None:
        """Raise InputError where a card would have more kinds of events than can be verified."""
        count = len(events_of(self.guarantee)) + len(stages.events)
        if count > MOST_EVENTS:
            raise InputError(
                f"with those of {self.place} the card would have {count} kinds of events, and at most "
                f"{MOST_EVENTS} can be verified; go on from an earlier release"
            )

    def _check_same_images(self, images: ImageSet) -> None:
        """Raise InputError where it is known to be on other images: sums of these cannot be averaged."""
        home = Path(self.place) if is_run(self.place) else Path(self.place).absolute().parent
        if is_run(home):
            private = RunDirectory.open(home).private
            if private and private.get("digest") != images.digest:
                raise InputError(f"{self.place} was made of other images; give those, read likewise")

    def _check_composes(self, budget: Budget) -> None:
        """Raise InputError where one ε at this run's δ cannot stand for both runs, be they on the same images
        or on others.
        """
        before = max(part["num_examples"] for part in parts_of(self.guarantee))
        if budget.delta >= 1 / before:
            raise InputError(
                f"delta {budget.delta:g} is not below 1/N for the {before} of {self.place}, for which the "
                "card speaks too; give a smaller one"
            )
        if is_unpaid(self.guarantee):
            raise InputError(
                f"{self.place} is on images that were said to be public, in no account (unpaid); "
                "go on from a run that is paid for"
            )
        if (self.guarantee.get("pool") or {}).get("guarantee"):
            raise InputError(
                f"{self.place} was mixed with a pool that was made of private images, whose cost its card "
                "has beside; go on from a run without one"
            )


def earlier_of(options: Any) -> Earlier | None:
    """Return the earlier run that a run with these options takes up, or None.

    Raises:
        InputError: it has nothing that this run can take up, or not with these options.
    """
    refine, from_run = (getattr(options, name, None) for name in TAKES_UP)
    if refine is not None and from_run is not None:
        raise InputError("refine is for images and from_run for a classifier; leave one out")
    if from_run is not None:
        if getattr(options, "searching", None):
            raise InputError(
                "a tuning begins afresh, and cannot go on from a run; leave out search or from_run"
            )
        start = open_start(from_run)
        # That it is not private is no fault of it: the card of this run will say so.
        verified(from_run, "no run can go on from it", but="private")
        method = find_method(start.method if options.method == AUTO else options.method)
        return Earlier(from_run, FROM_RUN, GoingOn(method), start.card, start)
    if refine is None:
        return None
    reusable, learned = open_earlier(refine)
    if options.method not in (AUTO, reusable.name):
        raise InputError(
            f"{refine} is of {reusable.name}, which alone can refine it, not {options.method}; name no method"
        )
    return Earlier(refine, REFINE, Refined(reusable), learned.facts[GUARANTEE])
