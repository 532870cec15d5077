"""Compare runs: as rows, by what those on the same images have cost together, and as a chart."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpvision.api.run_chart import chart_of
from dpvision.api.run_rows import RunRow, find_rows
from dpvision.api.taken_up import spent_by
from dpvision.privacy import Event, InputError, Ledger, epsilon
from dpvision.runs import RunDirectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SameData:
    """Runs on the same private images, and what they have cost together. Private.

    Attributes:
        data: where the images were, if they were not in memory.
        runs: the names of the runs.
        paid: how many of them are paid: in a ledger, and private.
        unfinished: how many of these are not finished, and count for all that they plan.
        epsilon: what the paid ones cost together at ``delta`` and ``neighboring_relation``; None where that
            cannot be told.
        others, epsilon_with_others: how many further runs their ledgers have, and the ε of all of them; None
            where nothing bounds it.
        because: why it cannot be told.
        taken_up: how many earlier runs, not in the folder, they have refined or gone on from; what these have
            cost is part of it.
    """

    data: str | None
    runs: tuple[str, ...]
    paid: int
    unfinished: int = 0
    epsilon: float | None = None
    delta: float | None = None
    neighboring_relation: str | None = None
    others: int = 0
    epsilon_with_others: float | None = None
    because: str | None = None
    taken_up: int = 0

    def in_words(self) -> str:
        """Say it for people."""
        which = f" ({self.data})" if self.data else ""
        alone = f"1 run is on private images{which} that no other here is on"
        count = (
            alone if len(self.runs) == 1 else f"{len(self.runs)} runs are on the same private images{which}"
        )
        if self.epsilon is None:
            who = "it" if len(self.runs) == 1 else "they"
            return f"{count}; what {who} cost cannot be told: {self.because}."
        at = f"at delta {self.delta:g} ({self.neighboring_relation})"
        paid = f"the {self.paid} paid together"
        if self.paid == len(self.runs):
            paid = "it" if self.paid == 1 else "together they"
        said = f"{count}: {paid} cost ε {self.epsilon:.4g} {at}"
        if self.unfinished:
            said += f", with all that is planned by {self.unfinished} not finished"
        if self.taken_up:
            said += f", with {self.taken_up} earlier that they go on from"
        if self.others:
            all_cost = self.epsilon_with_others
            more = "nothing bounds it" if all_cost is None else f"ε {all_cost:.4g}"
            said += f"; with {self.others} more in the ledger {more}"
        return f"{said}. {_CHOOSING}" if len(self.runs) > 1 else f"{said}."


_CHOOSING = (
    "To publish the most accurate of them costs what all of them cost together, not its own ε alone, and "
    "more where the images that this was measured on are private, which no ledger counts; `dpvision tune` "
    "pays for a choice."
)
_UNPAID = (
    "{} unpaid on images that were said to be public: no account has what that costs. Where the images are "
    "private, choose no settings by them."
)


@dataclass(frozen=True)
class Runs:
    """The runs in a folder. Private, but for what their cards say.

    Attributes:
        folder: that folder.
        rows: a row for each run.
        same_data: those on the same private images together.
    """

    folder: str
    rows: tuple[RunRow, ...]
    same_data: tuple[SameData, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types."""
        return {
            "folder": self.folder,
            "runs": [row.to_json() for row in self.rows],
            "same_data": [asdict(one) for one in self.same_data],
            "notes": list(self.notes),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be said of all of them together, in sentences."""
        said = [one.in_words() for one in self.same_data]
        public = [row for row in self.rows if row.cost == "unpaid" and not row.not_private_because]
        count = sum(row.is_private is True for row in public)
        if count:
            said.append(_UNPAID.format(f"{count} run{' is' if count == 1 else 's are'}"))
        apart = sum(
            row.state == "finished" and row.digest is None and row.cost == "unknown" for row in self.rows
        )
        if apart:
            said.append(
                f"{apart} release{' is' if apart == 1 else 's are'} here without "
                f"{'its run' if apart == 1 else 'their runs'}: on which images, and what they cost together "
                "with others, cannot be told."
            )
        return tuple(said)

    def chart(self, figure: str = "accuracy") -> Figure:
        """Draw test accuracy, or "auc", against ε, for each method a line.

        Raises:
            InputError: no run has that figure.
        """
        return chart_of(self.rows, figure, self._note())

    def _note(self) -> str:
        unpaid = sum(row.cost == "unpaid" and row.is_private is True for row in self.rows)
        return f"Of these runs {unpaid} unpaid, on images that were said to be public." if unpaid else ""


def runs_in(folder: str | os.PathLike[str], *, sort: str = "name") -> Runs:
    """Find the runs in a folder and below, and say of each what it is, how far it is and how good.

    Args:
        folder: the folder; a run's directory, or a release, is one too.
        sort: by name, method, epsilon, accuracy (the best first) or started.

    Raises:
        InputError: there is no such folder. A run that is damaged has a row that says so.
    """
    rows = find_rows(Path(folder), sort)
    return Runs(str(folder), tuple(rows), tuple(_together(rows)))


def _together(rows: Sequence[RunRow]) -> list[SameData]:
    """Return the runs of each data set together, but for those that say that theirs is public."""
    by_data: dict[tuple[str, str | None], list[RunRow]] = {}
    for row in rows:
        if row.digest is not None and (row.cost != "unpaid" or row.not_private_because):
            by_data.setdefault((row.digest, row.unit), []).append(row)
    return [_cost_together(of_data) for of_data in by_data.values()]


def _cost_together(rows: Sequence[RunRow]) -> SameData:
    """Compose what the ledgers of runs on the same images say of them."""
    paid = [row for row in rows if row.cost == "paid"]
    unfinished = sum(row.state != "finished" for row in paid)
    data = next((row.data for row in rows if row.data), None)
    names = tuple(row.name for row in rows)
    if not paid:
        return SameData(data, names, 0, because=next(row.cost_because for row in rows))
    try:
        ledgers = [Ledger(path) for path in dict.fromkeys(str(row.ledger) for row in paid)]
        counted: Mapping[str, tuple[Event, ...]] = {
            run: events for ledger in ledgers for run, events in ledger.counted().items()
        }
        at, here = ledgers[0].stated_at, {row.run_id for row in paid}
        ours = spent_by(RunDirectory.open(row.path) for row in paid)
        everything = {**counted, **ours}
        together = epsilon(_all_of(ours), at.delta, at.neighboring_relation)
        others = len(counted.keys() - ours.keys())
        everything_costs = (
            epsilon(_all_of(everything), at.delta, at.neighboring_relation) if others else together
        )
        if math.isinf(together):
            return SameData(data, names, len(paid), unfinished, because="nothing bounds it")
        return SameData(
            data,
            names,
            len(paid),
            unfinished,
            together,
            at.delta,
            at.neighboring_relation,
            others,
            everything_costs if math.isfinite(everything_costs) else None,
            taken_up=len(ours.keys() - here),
        )
    except InputError as error:
        return SameData(data, names, len(paid), unfinished, because=str(error))


def _all_of(by_run: Mapping[str, tuple[Event, ...]]) -> list[Event]:
    return [event for events in by_run.values() for event in events]
