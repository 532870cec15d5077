"""The curves of a run as a table: each step once, with the ε that was spent by then. Private."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpvision.images.files import reading
from dpvision.privacy.accounting import epsilon
from dpvision.privacy.budget import Budget
from dpvision.privacy.events import Event, merge_events
from dpvision.runs.files import write_atomically
from dpvision.runs.metrics import read_metrics

FILE = "curves.csv"
COLUMNS = (
    *("step", "seconds", "releases", "epsilon", "batch_size", "mean_loss", "median_norm", "fraction_clipped"),
    *("nonfinite", "learning_rate"),
)

MOST_EPSILONS = 100
"""ε is computed for so many steps at most, at even distances, for each takes some hundredths of a second."""


def write_curves(private: Path, planned: Sequence[Event], budget: Budget) -> Path:
    """Write ``curves.csv`` into a run's private folder, of its ``metrics.jsonl``, for the owner alone.

    Args:
        private: the folder.
        planned: all that the run means to release.
        budget: its δ and relation are those of ε.

    Returns:
        The path of the file.

    Raises:
        InputError: there are no metrics yet, they are damaged, or the file system refuses.
    """
    lines = read_metrics(private)
    with reading(str(private / "metrics.jsonl")):
        spent = [_spent(line, planned) for line in lines]
    epsilons = _epsilons(spent, budget)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for line, events, cost in zip(lines, spent, epsilons, strict=True):
        releases = sum(event.count for event in events)
        table.writerow({**line, "releases": releases, "epsilon": f"{cost:.6g}"})
    write_atomically(private / FILE, text.getvalue().encode())
    return private / FILE


def _spent(line: Mapping[str, Any], planned: Sequence[Event]) -> tuple[Event, ...]:
    """Return what was paid for by a step's end. ValueError or KeyError where the line is not of this plan."""
    kinds = list(zip(merge_events(planned), line["releases"], strict=True))
    if not all(isinstance(count, int) and 0 <= count <= event.count for event, count in kinds):
        raise ValueError("its releases are not of this run")
    return tuple(event.times(count) for event, count in kinds if count)


def _epsilons(spent: Sequence[Sequence[Event]], budget: Budget) -> list[float]:
    """Return the ε of what was spent by each step; of long runs that of a step soon after, which is more."""
    every = -(-len(spent) // MOST_EPSILONS)
    found: dict[int, float] = {}
    costs = []
    for number in range(len(spent)):
        next_mark = min(len(spent) - 1, number + -number % every)
        if next_mark not in found:
            found[next_mark] = epsilon(spent[next_mark], budget.delta, budget.neighboring_relation)
        costs.append(found[next_mark])
    return costs
