"""Charts by matplotlib as SVG or PNG: one look for all of them, and the chart of privacy against utility.

Figures are made by themselves, never through pyplot, whose state a program that calls this may be using.
Colours are those of Okabe and Ito, which people tell apart who see few colours; each has a mark of its own.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import matplotlib
import matplotlib.style
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    # Text stays text, to be found, read aloud and set in whatever font there is.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.parse_math": False,  # names of data are nobody's formulas
    # Elements are named by what they are and not at random: equal charts are equal files.
    "svg.hashsalt": "dpvision",
}
"""What all charts have in common."""

_PNG_DPI = 150
_APART, _WIDEST = 0.035, 0.3
"""How far apart the runs at one ε are drawn, and all of them together at most, in powers of e."""


_LEGEND, _MARK = 90, 6
"""How many characters of the legend stand beside each other, and how many a mark takes the place of."""


@dataclass(frozen=True)
class Point:
    """A measured value with its interval.

    Attributes:
        x, y: where it is.
        low, high: the ends of the interval around y.
        is_hollow: whether it is drawn as an outline, for what does not hold as the others do.
    """

    x: float
    y: float
    low: float
    high: float
    is_hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points that belong together, and the name they have in the legend."""

    name: str
    points: tuple[Point, ...]


@contextmanager
def style(more: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw in `STYLE` while this lasts, and with no setting of the user's own: a chart is the same to all."""
    settings: Any = {**STYLE, **(more or {})}
    with matplotlib.style.context("default"), matplotlib.rc_context(settings):
        yield


def new_figure(width: float = 7.2, height: float = 4.6) -> tuple[Figure, Axes]:
    """Return a figure of so many inches with one pair of axes, within `STYLE`."""
    with style():
        made = Figure(figsize=(width, height), layout="constrained")
        return made, made.add_subplot()


def svg(figure: Figure, title: str) -> bytes:
    """Return a figure as SVG, of which ``title`` says what it shows to who does not see it."""
    return _drawn(figure, "svg", {"Title": title, "Date": None, "Creator": None})


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    return _drawn(figure, "png", {"Software": None})


def in_form_of(path: Path, figure: Figure, title: str) -> bytes:
    """Return a figure as PNG where the name of a file says so, or else as SVG."""
    return png(figure) if path.suffix.lower() == ".png" else svg(figure, title)


def privacy_utility(
    series: Sequence[Series], *, x: str, y: str, note: str = "", in_percent: bool = True
) -> Figure:
    """Draw what models are worth against the ε that each has cost, on a logarithmic axis.

    Args:
        series: at least one, each with a point at least; a line leads through the means of its points that
            are not hollow.
        x, y: what the axes show.
        note: a sentence or two beneath.
        in_percent: whether the values of y, which are shares from 0 to 1, are shown as per cent.
    """
    with style():
        figure, axes = new_figure()
        axes.set_xscale("log")
        for number, (one, places) in enumerate(zip(series, _places(series), strict=True)):
            _draw(axes, one, COLOURS[number % len(COLOURS)], MARKS[number % len(MARKS)], places)
        at = _ticks([point.x for one in series for point in one.points])
        axes.set_xticks(at, [f"{value:g}" for value in at])
        axes.set_xticks([], minor=True)
        first, last = min(at), max(at)
        axes.set_xlim(first / 1.35, last * 1.35)
        if in_percent:
            axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        _legend(axes, any(point.is_hollow for one in series for point in one.points))
        if note:
            figure.supxlabel(note, fontsize=9, color="#444444", x=0.01, ha="left", wrap=True)
    return figure


def _draw(
    axes: Axes, series: Series, colour: str, mark: str, places: Mapping[float, Sequence[float]]
) -> None:
    """Draw one series: its points at their ``places``, by their ε, and a line through the means."""
    left = {x: iter(of_x) for x, of_x in places.items()}
    means = []
    for x in sorted(places):
        whole = [point.y for point in series.points if _near(point.x) == x and not point.is_hollow]
        if whole:
            means.append((fmean(places[x]), fmean(whole)))
    if means:
        axes.plot(*zip(*means, strict=True), color=colour, linewidth=1.6, alpha=0.7)
    for point in series.points:
        axes.errorbar(
            next(left[_near(point.x)]),
            point.y,
            [[max(0.0, point.y - point.low)], [max(0.0, point.high - point.y)]],
            color=colour,
            marker=mark,
            markersize=5.5,
            markerfacecolor="white" if point.is_hollow else colour,
            markeredgecolor=colour,
            elinewidth=1.0,
            capsize=2.0,
            linestyle="none",
        )
    axes.plot([], [], color=colour, marker=mark, markersize=5.5, label=series.name)


def _places(series: Sequence[Series]) -> list[dict[float, list[float]]]:
    """Return where the points of each series are drawn, by their ε: side by side, where several share it."""
    placed: list[dict[float, list[float]]] = [{} for _ in series]
    every = [[(_near(point.x), point.x) for point in one.points] for one in series]
    for x in sorted({near for one in every for near, _ in one}):
        here = [(number, exact) for number, one in enumerate(every) for near, exact in one if near == x]
        apart = min(_APART, _WIDEST / len(here))
        for place, (number, exact) in enumerate(here):
            shifted = exact * math.exp(apart * (place - (len(here) - 1) / 2))
            placed[number].setdefault(x, []).append(shifted)
    return placed


def _near(x: float) -> float:
    """Return the ε that a run was meant to have, to two digits: what it has is a little less."""
    return float(f"{x:.2g}")


def _legend(axes: Axes, has_hollow: bool) -> None:
    if has_hollow:
        axes.plot([], [], "o", color="#444444", markerfacecolor="white", label="hollow: NOT PRIVATE")
    axes.plot([], [], "|", color="#444444", markersize=9, label="a run's 95 % interval")
    _, names = axes.get_legend_handles_labels()
    wide = [len(name) + _MARK for name in names]
    columns = len(wide) if sum(wide) <= _LEGEND else max(1, _LEGEND // max(wide))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, fontsize=10, columnspacing=1.2)


def _ticks(values: Sequence[float]) -> list[float]:
    """Return where to put numbers on the axis of ε: at the values themselves, without those too near."""
    kept: list[float] = []
    for value in sorted(set(map(_near, values))):
        if not kept or value > 1.12 * kept[-1]:
            kept.append(value)
    return kept


def _drawn(figure: Figure, form: str, metadata: dict[str, str | None]) -> bytes:
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=form, dpi=_PNG_DPI, metadata=metadata)
    return file.getvalue()
