"""Charts: what is drawn where, that nothing of pyplot is touched, and that equal charts are equal files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dpvision.reports.charts import COLOURS, Point, Series, in_form_of, png, privacy_utility, svg

SERIES = [
    Series(
        "dp-sgd", tuple(Point(e * 0.999, y, y - 0.03, y + 0.02) for e, y in ((1, 0.8), (1, 0.82), (8, 0.9)))
    ),
    Series("dp-ridge", (Point(0.998, 0.7, 0.6, 0.75), Point(7.99, 0.85, 0.8, 0.9, is_hollow=True))),
]
LABELS = {"x": "ε spent", "y": "test accuracy", "note": "Of these runs 2 unpaid."}


def drawn() -> Any:
    return privacy_utility(SERIES, **LABELS)


def test_what_it_shows_is_said() -> None:
    found = ElementTree.fromstring(svg(drawn(), "Accuracy against ε"))
    texts = {"".join(one.itertext()).strip() for one in found.iter() if one.tag.endswith(("}text", "}title"))}
    assert {"dp-sgd", "dp-ridge", "hollow: NOT PRIVATE", "a run's 95 % interval"} <= texts
    assert {"ε spent", "test accuracy", "Of these runs 2 unpaid.", "Accuracy against ε"} <= texts
    assert {"1", "8"} <= texts, "ε is marked where there are runs"


def test_lines_lead_through_means_of_what_is_private() -> None:
    (axes,) = drawn().axes
    lines = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata())]
    found = {line.get_color(): list(line.get_ydata()) for line in lines}
    assert found[COLOURS[0]] == pytest.approx([0.81, 0.9])
    assert found[COLOURS[1]] == pytest.approx([0.7])
    assert axes.get_xscale() == "log"


def test_points_at_one_epsilon_stand_side_by_side() -> None:
    (axes,) = drawn().axes
    at = [bars.lines[0].get_xdata()[0] for bars in axes.containers]
    assert len(set(at)) == len(at) == 5
    assert all(0.8 < x < 1.25 or 6.4 < x < 10 for x in at)


def test_the_hollow_one_is_an_outline() -> None:
    (axes,) = drawn().axes
    faces = [bars.lines[0].get_markerfacecolor() for bars in axes.containers]
    assert faces == [COLOURS[0]] * 3 + [COLOURS[1], "white"]


def test_equal_charts_are_equal_files() -> None:
    assert svg(drawn(), "title") == svg(drawn(), "title")
    assert png(drawn()) == png(drawn())


def test_the_name_of_the_file_says_the_form() -> None:
    assert in_form_of(Path("a.PNG"), drawn(), "").startswith(b"\x89PNG")
    assert b"<svg" in in_form_of(Path("a.svg"), drawn(), "")


def test_names_are_no_formulas_and_no_markup() -> None:
    name = "dp-sgd, $\\frac{$ <script>"
    drawn = svg(privacy_utility([Series(name, SERIES[0].points)], **LABELS), "a & b")
    texts = {"".join(one.itertext()).strip() for one in ElementTree.fromstring(drawn).iter()}
    assert {name, "a & b"} <= texts


@pytest.mark.filterwarnings("error")
def test_there_is_room_for_many_long_names() -> None:
    names = [f"dp-mix-diff, photographs-{number}, add_or_remove_one, δ = 1e-05" for number in range(9)]
    png(privacy_utility([Series(name, SERIES[0].points) for name in names], **LABELS))


def test_pyplot_is_left_alone() -> None:
    code = "import dpvision.reports.charts, sys; print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
