"""Define an event, the cost of a release whatever the mechanism, and how a ledger writes it down."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import dp_accounting
import numpy as np

from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.errors import InputError

LARGEST_COUNT = 10_000_000
"""The largest count: beyond it the accountants take for ever, and no use is known."""

_BEFORE_KINDS = "gaussian"
"""The kind of a ledger's event that names none, as none did while there was only one kind."""


class UnknownEvent(InputError):  # noqa: N818 (reads as what happened)
    """An event of a kind that nobody has registered: what it costs cannot be told."""


@dataclass(frozen=True)
class Event(ABC):
    """``count`` like releases: immutable, and equal to another where all fields are.

    A kind of events is a frozen dataclass in a file of its own, whose `to_json` has numbers, texts or lists.
    It says here what accounts, ledgers and cards need to know of it, and is made known by `register`; none of
    them knows any kind by name.

    Guarantee: the ε of events is an upper bound if, for each of them and under both relations,

    - the pair of distributions that `to_dp_event` names dominates the ``count`` releases, and
      `renyi_divergences` is never below their divergence: two computations of one thing, compared by
      ``tests/privacy/test_accounting.py`` and ``tests/privacy/test_events.py``;
    - a + b releases cost at least as much as a and b releases with noise of their own: like events are
      counted together, also those of different runs. A kind whose releases share noise says whether that is
      so of its ``count``, or counts whole rounds.

    Attributes:
        kind: its name in ledgers, never to be given to something else.
        noise: what is added, in words, for cards and messages.
        has_pair: whether there is a pair of distributions for the PLD accountant. Where one event of an
            account has none, all of it is composed by Rényi divergences.

    Raises:
        InputError: the count is out of range.
    """

    kind: ClassVar[str]
    noise: ClassVar[str]
    has_pair: ClassVar[bool] = True

    count: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        if not (isinstance(self.count, int) and 1 <= self.count <= LARGEST_COUNT):
            raise InputError(f"count must be a whole number in [1, {LARGEST_COUNT}], not {self.count}.")

    @property
    def single(self) -> Self:
        """The event of one such release. Events are alike where this is equal."""
        return self.times(1)

    def times(self, count: int) -> Self:
        """Return the event of so many such releases, whatever this event's own count."""
        return replace(self, count=count)

    @abstractmethod
    def scaled(self, scale: float) -> Self:
        """Return the same releases with all noise multiplied by ``scale``."""

    def unsampled(self) -> Event:
        """Return what the releases would be to whoever knew who was in each sample; these, without any."""
        return self

    # What they cost --------------------------------------------------------------------------------------

    @abstractmethod
    def to_dp_event(self, neighboring_relation: NeighboringRelation) -> dp_accounting.DpEvent:
        """Return all ``count`` releases in dp_accounting's terms, for the PLD accountant of the same
        relation.

        InputError where nothing is known of them under this relation.
        """

    @abstractmethod
    def renyi_divergences(
        self, orders: Sequence[float], neighboring_relation: NeighboringRelation
    ) -> np.ndarray:
        """Compute Rényi divergences of all ``count`` releases, in nats, one per order α > 1; rounding
        included.

        InputError as of `to_dp_event`.
        """

    @property
    def roundings(self) -> int:
        """The number of privacy losses that the PLD accountant rounds to its grid for this event. Like
        `largest_loss` it only decides how fine the grid is, never whether ε is a bound.
        """
        return self.count

    @property
    @abstractmethod
    def largest_loss(self) -> float:
        """The approximate size, in nats, of the largest of these losses, but for a negligible probability."""

    # How it is written -----------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the kind and the fields as a dictionary that JSON keeps exactly."""
        return {"kind": self.kind, **asdict(self)}

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Event:
        """Return the event, of whatever kind, whose `to_json` this is.

        Raises:
            UnknownEvent: no such kind is registered.
            InputError, TypeError: it is no event of this kind.
        """
        given = dict(fields)
        kind = given.pop("kind", _BEFORE_KINDS)
        if kind not in _READERS:
            raise UnknownEvent(
                f"events of kind {kind!r} are not known to this program; "
                "import what registers them (dpvision.privacy.events.register)."
            )
        return _READERS[kind](**given)

    def facts(self) -> dict[str, Any]:
        """Return what a release card says of the event: public, like all of an event."""
        return asdict(self)

    def __str__(self) -> str:
        """Say what one such release is: "Gaussian noise at noise multiplier 2 and sample rate 0.05"."""
        said = [
            f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.facts().items()
            if name != "count"
        ]
        return f"{self.noise} at {' and '.join(said)}"


_READERS: dict[str, Callable[..., Event]] = {}


def register(kind: str, read: Callable[..., Event]) -> None:
    """Make a kind of events known: ``read`` makes one of the fields that its `Event.to_json` writes.

    Raises:
        InputError: the name is another kind's.
    """
    if kind in _READERS:
        raise InputError(f"there is a kind of events {kind!r} already; name yours differently.")
    _READERS[kind] = read


def written(event: Event) -> dict[str, Any]:
    """Return `Event.to_json` of an event that will be read back as what it is.

    Raises:
        InputError: it would not be: its kind is not registered, or what is written is not the whole of it.
    """
    fields = event.to_json()
    if Event.from_json(json.loads(json.dumps(fields))) != event:
        raise InputError(f"a ledger cannot hold an event of kind {event.kind!r}: what it writes loses some.")
    return fields


def merge_events(events: Iterable[Event]) -> tuple[Event, ...]:
    """Count like releases together, in an order that depends only on what was released."""
    counts: dict[Event, int] = {}
    for event in events:
        counts[event.single] = counts.get(event.single, 0) + event.count
    return tuple(one.times(counts[one]) for one in sorted(counts, key=_place))


def _place(one: Event) -> tuple[Any, ...]:
    """Return a sorting key: by kind, and by the values of the fields."""
    fields = one.to_json()
    kind = fields.pop("kind", "")
    return kind, *(json.dumps(value) if isinstance(value, list) else value for value in fields.values())
