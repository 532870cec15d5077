"""What a run has reserved in the ledger, and what of it is spent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dpvision.privacy.accounting import GaussianEvent, merge_events
from dpvision.privacy.errors import BudgetExceeded


class Reservation:
    """The events a run may release, crossed off as they are spent. More than reserved is refused.

    Attributes:
        reserved: all events, merged.
    """

    def __init__(self, events: Iterable[GaussianEvent]) -> None:
        self.reserved = merge_events(events)
        self._left = {replace(event, count=1): event.count for event in self.reserved}

    @property
    def spent(self) -> tuple[GaussianEvent, ...]:
        """What has been released, merged."""
        kinds = (replace(event, count=1) for event in self.reserved)
        used = zip(self.reserved, kinds, strict=True)
        return tuple(
            replace(event, count=event.count - self._left[kind])
            for event, kind in used
            if event.count > self._left[kind]
        )

    def left(self, event: GaussianEvent) -> int:
        """How many more releases of this kind (whatever the event's own count) are reserved."""
        return self._left.get(replace(event, count=1), 0)

    def check(self, event: GaussianEvent) -> None:
        """Raises BudgetExceeded when the event's count is not reserved (any more)."""
        if event.count > self.left(event):
            raise BudgetExceeded(
                f"the plan holds {self.left(event)} more releases at noise multiplier "
                f"{event.noise_multiplier:g} and sample rate {event.sample_rate:g}, "
                f"not {event.count}; nothing was released."
            )

    def spend(self, event: GaussianEvent) -> None:
        """Cross the event off, after `check`."""
        self.check(event)
        self._left[replace(event, count=1)] -= event.count
