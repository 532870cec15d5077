"""Describe the cost of releases, one kind of event per file.

Accounts compose events, plans cross them off and ledgers write them down, all by `Event` alone. Another kind,
of this program or of somebody else's, is a frozen dataclass that says what `Event` asks for, and a call of
`register` beside it. Events that a ledger holds and nobody has registered are refused: what they cost is not
known. ``tests/privacy/test_events.py`` adds one.
"""

from dpvision.privacy.events.event import Event, UnknownEvent, merge_events, register, written
from dpvision.privacy.events.gaussian import NOISE_MULTIPLIERS, GaussianEvent
from dpvision.privacy.events.poisson_gaussian import GaussianSumEvent, PoissonGaussianEvent, gaussian_event
from dpvision.privacy.events.selection import SelectionEvent

__all__ = [
    "NOISE_MULTIPLIERS",
    "Event",
    "GaussianEvent",
    "GaussianSumEvent",
    "PoissonGaussianEvent",
    "SelectionEvent",
    "UnknownEvent",
    "gaussian_event",
    "merge_events",
    "register",
    "written",
]
