"""Draw runs: what each is worth on its test images against the ε that it has cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpvision.api.options import FIGURES, check_figure
from dpvision.api.run_rows import RunRow
from dpvision.privacy import InputError
from dpvision.runs.files import write_atomically
from dpvision.runs.places import check_chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dpvision.api.comparing import Runs


def chart_of(rows: Sequence[RunRow], figure: str = "accuracy", note: str = "") -> Figure:
    """Draw a figure of runs as `Runs.chart` does, with a note beneath.

    Raises:
        InputError: no run has it, or there is no such figure.
    """
    from dpvision.reports.charts import Point, Series, privacy_utility

    check_figure(figure)
    found = [(row, row.epsilon, row.figure(figure)) for row in rows]
    shown = [(row, epsilon, value) for row, epsilon, value in found if epsilon and value]
    if not shown:
        raise InputError(
            f"no run here has the figure '{figure}', so there is nothing to draw; train with test images"
        )
    drawn = [row for row, _, _ in shown]
    differ = [name for name in ("data", "unit", "neighboring_relation", "delta") if _differs(drawn, name)]
    series: dict[str, list[Point]] = {}
    for row, epsilon, (value, low, high) in shown:
        name = ", ".join([str(row.method), *(_short(name, getattr(row, name)) for name in differ)])
        point = Point(epsilon, value, low, high, is_hollow=not row.is_private)
        series.setdefault(name, []).append(point)
    first, same = drawn[0], {"delta", "neighboring_relation", "unit"} - set(differ)
    said = [
        "ε spent (log scale)",
        *([f"δ = {first.delta:g}"] if "delta" in same else []),
        *([str(first.neighboring_relation)] if "neighboring_relation" in same else []),
        *([f"unit: {first.unit}"] if "unit" in same else []),
    ]
    totals = sorted({row.test_total for row in drawn if row.test_total})
    count = f"n = {totals[0]}" if len(totals) == 1 else f"n = {totals[0]} to {totals[-1]}"
    return privacy_utility(
        [Series(name, tuple(points)) for name, points in series.items()],
        x=", ".join(said),
        y=f"{FIGURES[figure]}, {count}",
        note=note,
        in_percent=figure == "accuracy",
    )


def write_chart(runs: Runs, path: Path, figure: str = "accuracy") -> None:
    """Write the chart of runs as SVG or PNG, by the file's name.

    Raises:
        InputError: as `Runs.chart`, or the name or the file system refuses.
    """
    check_chart(path)
    from dpvision.reports.charts import in_form_of

    write_atomically(path, in_form_of(path, runs.chart(figure), f"{FIGURES[figure]} against ε"))


def _differs(rows: Sequence[RunRow], name: str) -> bool:
    return len({getattr(row, name) for row in rows}) > 1


def _short(name: str, value: Any) -> str:
    """Write what distinguishes a series for the legend."""
    if name == "delta":
        return f"δ = {value:g}"
    return Path(str(value)).name if name == "data" else str(value)
