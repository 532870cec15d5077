"""A mechanism that releases the best of a random number of trials, and nothing of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, Self

import torch

from dpvision.privacy.events import Event
from dpvision.privacy.events.selection import SelectionEvent
from dpvision.privacy.mechanisms import Recorder
from dpvision.privacy.noise import RandomSource
from dpvision.privacy.sampling import Sampler
from dpvision.privacy.trial_count import TrialCount


@dataclass(frozen=True)
class SelectionMechanism:
    """Draws which trials there are, and states what the best of them costs: see `SelectionEvent`.

    It releases no sums: whoever runs the trials records `cost` first, once, then releases the trial with the
    best score and forgets the others.

    Attributes:
        candidates: what a trial of each candidate releases: one of them is drawn for each trial.
        mean: the expected number of trials.
        sampler: that of a trial's first release.
        sensitivity: that of a trial's score.
    """

    candidates: tuple[tuple[Event, ...], ...]
    mean: float
    sampler: Sampler
    sensitivity: float = 1.0
    replace_one_ratio: float = 1.0

    def cost(self, releases: int) -> SelectionEvent:
        """Return what so many selections cost together."""
        return SelectionEvent.of(self.candidates, self.mean).times(releases)

    def draw(self, random: RandomSource) -> tuple[int, ...]:
        """Draw the trials: the index of the candidate of each. No data is asked."""
        count = TrialCount(self.mean).draw(random)
        places = random.uniform((count,)) * len(self.candidates)
        return tuple(int(place) for place in places.tolist())

    def over(self, present: int) -> Self:
        """Return this mechanism: how many examples there are changes nothing."""
        return self

    def release(self, sums: Mapping[str, torch.Tensor], account: Recorder, random: RandomSource) -> NoReturn:
        """Raise TypeError: see `Session.select`."""
        raise TypeError("a selection releases the best of its trials, and no sums")
