"""The ε that a run has spent so far, for whoever watches it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpvision.privacy.account import Account

# It takes up to a second to compute: it may cost one part in this many of the time.
PAUSE = 200
LEAST_PAUSE = 5.0  # seconds


class EpsilonSoFar:
    """The ε of an account, not computed anew more often than it may cost."""

    def __init__(self) -> None:
        self._value: float | None = None
        self._next = time.monotonic() + LEAST_PAUSE

    def of(self, account: Account) -> float | None:
        """Return what is known of the account; None in the first seconds."""
        started = time.monotonic()
        if started >= self._next:
            self._value = account.epsilon_spent()
            ended = time.monotonic()
            self._next = ended + max(LEAST_PAUSE, PAUSE * (ended - started))
        return self._value
