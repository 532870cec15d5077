"""One run's account: what it may release, what it has released, and the ε of both."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from dpvision.privacy.accounting import Accountant, epsilon
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import BudgetExceeded
from dpvision.privacy.events import Event
from dpvision.privacy.image_index import IndexedImages
from dpvision.privacy.ledger import About, Ledger
from dpvision.privacy.reservation import Reservation


class Account:
    """The account of one run.

    Every release of the run goes through `record`, which writes it to the ledger before it may happen.

    Guarantee: what was recorded never costs more than the budget, and is in the ledger, on disk, before
    `record` returns: no event is recorded that the plan does not hold, and `open` refuses a plan that costs
    more. This rests on the events (see `Event`) and on the ledger. ``tests/privacy/test_account.py`` and
    ``tests/privacy/test_ledger.py``, where processes are killed, show it.

    >>> from dpvision.privacy import Budget, gaussian_event
    >>> step = gaussian_event(noise_multiplier=2.0, sample_rate=0.01)
    >>> account = Account(Budget(1.0, 1e-5), None, "an example", planned=[step.times(100)])
    >>> account.open()
    >>> account.record(step)
    >>> account.left(step), f"{account.epsilon_spent():.3f} of {account.epsilon_planned():.3f}"
    (99, '0.028 of 0.190')

    Args:
        budget: what the run may spend in total.
        ledger: the data set's ledger, or None to keep the account in memory only (a rehearsal or a test).
        run_id: the run's name in the ledger; the same id and plan take up a run that was interrupted.
        planned: everything the run means to release.
        images: the images of the run, where what other runs spend on some of them counts too.
        about: what the run is, for people who read the ledger.
        first: whether `open` refuses the run where others have spent anything on some of its images.
    """

    def __init__(
        self,
        budget: Budget,
        ledger: Ledger | None,
        run_id: str,
        planned: Sequence[Event],
        images: IndexedImages | None = None,
        about: About | None = None,
        *,
        first: bool = False,
    ) -> None:
        self.budget = budget
        self.ledger = ledger
        self.run_id = run_id
        self.images = images
        self.about = about
        self._first = first
        self._reservation = Reservation(planned)
        self._is_open = False

    def open(self) -> None:
        """Reserve the plan in the ledger; on taking a run up again, learn what it has spent.

        Raises:
            BudgetExceeded: the plan exceeds this account's budget or the owner's limit, or the run was to be
                the first on its images and is not. Nothing was written.
        """
        planned = self.epsilon_planned()
        if planned > self.budget.epsilon:
            raise BudgetExceeded(
                f"the plan spends epsilon {planned:.6g} at delta {self.budget.delta:g}, more than the budget "
                f"of {self.budget.epsilon:g}; add noise or take fewer steps."
            )
        if self.ledger is not None:
            with self._admitted(self.ledger):
                spent = self.ledger.open_run(self.run_id, self._reservation.reserved, self.about)
            for event in spent:
                self._reservation.spend(event)
        self._is_open = True

    def _admitted(self, ledger: Ledger) -> AbstractContextManager[None]:
        """Enter the run in the index of images, which opens it in its ledger meanwhile."""
        if self.images is None:
            return nullcontext()
        known, planned = self.images, self._reservation.reserved
        return known.index.admitting(self.run_id, ledger, planned, known, self._first)

    def record(self, event: Event) -> None:
        """Count a release that is about to happen; durable when this returns.

        Raises:
            BudgetExceeded: the plan does not hold (any more of) this event. Nothing was written.
        """
        if not self._is_open:
            raise RuntimeError("the account is not open")
        self._reservation.check(event)
        if self.ledger is not None:
            self.ledger.record(self.run_id, event)
        self._reservation.spend(event)

    def close(self) -> None:
        """End the run: what was planned but not spent is free again for others."""
        if self.ledger is not None and self._is_open:
            self.ledger.close_run(self.run_id)
            if self.images is not None:
                self.images.index.settle(self.run_id, self.spent)
        self._is_open = False

    @property
    def planned(self) -> tuple[Event, ...]:
        """The events that the run means to release, identical events merged."""
        return self._reservation.reserved

    @property
    def spent(self) -> tuple[Event, ...]:
        """The releases so far (or at least those recorded), identical events merged."""
        return self._reservation.spent

    def left(self, event: Event) -> int:
        """Return how many more releases of this kind the plan holds."""
        return self._reservation.left(event)

    def epsilon_spent(self, accountant: Accountant = "pld") -> float:
        """Compute ε of `spent` at the budget's δ and relation. PLD takes up to a second; RDP is quicker."""
        return epsilon(self.spent, self.budget.delta, self.budget.neighboring_relation, accountant)

    def epsilon_planned(self, accountant: Accountant = "pld") -> float:
        """Compute the ε of `planned` at the budget's δ and relation."""
        return epsilon(self.planned, self.budget.delta, self.budget.neighboring_relation, accountant)
