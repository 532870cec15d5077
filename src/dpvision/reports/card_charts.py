"""The charts of a release card, as SVG that stands within a page and takes its colours from there."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dpvision.reports.charts import style

_WIDTH = 4.6  # inches; no wider than a phone at 72 to the inch
_MARGINS = {"left": 0.16, "right": 0.95, "bottom": 0.15, "top": 0.85}
"""Those of the chart that is on every card, as shares of its sides."""
_INK = "#000000"
_SERIES = ("#010101", "#020202", "#030303")
"""Colours that stand for those of the page: the ink of text, and the series'."""


def attack_chart(strength: Mapping[str, Any]) -> str:
    """Return the chart of the best true-positive rate against the false-positive rate, beside a coin's."""
    rates = strength["false_positive_rates"]
    names = {"1": "this release", "10": "ten such releases"}
    found = {names[count]: hits for count, hits in strength["true_positive_rates"].items() if hits}
    title = "How many members an attacker finds at most, by the share of false alarms"
    with _figure(title, 3.2, _MARGINS) as (axes, made):
        for (name, hits), colour, dashes in zip(found.items(), _SERIES, ("-", "--"), strict=False):
            axes.plot(rates, hits, dashes, color=colour, linewidth=2, label=name)
        axes.plot(rates, rates, ":", color=_INK, linewidth=1.5, label="a coin: nothing known")
        axes.set(xscale="log", xlim=(rates[0], 1), ylim=(0, 1.02))
        axes.set(xlabel="false alarms, of those not in the data", ylabel="found, of those in it")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.xaxis.set_minor_locator(NullLocator())  # each line would take a millisecond to draw
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        # Above the axes: nowhere within them is free at any ε.
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return made[0]


def bars(title: str, values: Mapping[str, float], label: str) -> str:
    """Return horizontal bars of these lengths, each with its number."""
    with _figure(title, 0.8 + 0.35 * len(values)) as (axes, made):
        places = list(range(len(values)))
        axes.barh(places, list(values.values()), color=_SERIES[0], height=0.6)
        axes.set_yticks(places, [str(name) for name in values])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.2 * max([*values.values(), 1e-9]))
        for place, value in zip(places, values.values(), strict=True):
            axes.text(value, place, f" {value:.3g}", va="center")
        axes.set_xlabel(label)
    return made[0]


def curve(title: str, points: Sequence[tuple[float, float]], labels: tuple[str, str]) -> str:
    """Return a line through points in the unit square, beside its diagonal."""
    with _figure(title, 3.2) as (axes, made):
        axes.plot([0, 1], [0, 1], ":", color=_INK, linewidth=1)
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, color=_SERIES[0], linewidth=2)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=labels[0], ylabel=labels[1])
    return made[0]


@contextmanager
def _figure(
    title: str, height: float, margins: Mapping[str, float] | None = None
) -> Iterator[tuple[Any, list[str]]]:
    """Give the axes of a new figure, and a list that has its SVG when they are drawn. Without margins they
    are found, which takes longer than the drawing.
    """
    made: list[str] = []
    # The names of a chart's parts follow from its title: it is the same whenever it is drawn, and no other
    # chart on the page has the same names.
    with style({"font.size": 9, "axes.grid": False, "svg.hashsalt": title}):
        figure = Figure(figsize=(_WIDTH, height), layout=None if margins else "constrained")
        if margins:
            figure.subplots_adjust(**margins)
        yield figure.add_subplot(), made
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    made.append(_inline(file.getvalue(), title))


def _inline(svg: str, title: str) -> str:
    """Return the SVG element alone, named for those who do not see it, in the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    # What is said of all shapes would be said of the whole page, whose own style says it.
    rest = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", rest, flags=re.DOTALL)
    rest = re.sub(r"<!--.*?-->", "", rest, flags=re.DOTALL)
    rest = re.sub(r'<g id="[^"]*"', "<g", rest)  # there may be several on a page
    rest = rest.replace(_INK, "currentColor")
    for number, colour in enumerate(_SERIES, 1):
        rest = rest.replace(colour, f"var(--series-{number})")
    return f'{opening} role="img" aria-label="{escape(title)}">{rest}'
