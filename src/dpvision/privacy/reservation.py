"""Keep account of what a run has reserved in the ledger, and of what is spent."""

from __future__ import annotations

from collections.abc import Iterable

from dpvision.privacy.errors import BudgetExceeded
from dpvision.privacy.events import Event, merge_events


class Reservation:
    """The events a run may release, crossed off as they are spent. More than reserved is refused.

    Attributes:
        reserved: all events, merged.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.reserved = merge_events(events)
        self._left = {event.single: event.count for event in self.reserved}

    @property
    def spent(self) -> tuple[Event, ...]:
        """The events that have been released, merged."""
        used = ((event, event.count - self.left(event)) for event in self.reserved)
        return tuple(event.times(count) for event, count in used if count > 0)

    def left(self, event: Event) -> int:
        """Return how many more releases of this kind (whatever the event's own count) are reserved."""
        return self._left.get(event.single, 0)

    def check(self, event: Event) -> None:
        """Raise BudgetExceeded when the event's count is not reserved (any more)."""
        if event.count > self.left(event):
            raise BudgetExceeded(
                f"the plan holds {self.left(event)} more releases of {event}, not {event.count}; "
                "nothing was released."
            )

    def spend(self, event: Event) -> None:
        """Cross the event off, after `check`."""
        self.check(event)
        self._left[event.single] -= event.count
