"""Draw the charts of the results from the tables of the pages that they stand on.

    python -m checks.result_charts

A test fails while a chart is not what the tables say (`tests/checks/test_result_charts.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from checks.doc_blocks import DOCS
from dpvision.reports.charts import COLOURS, MARKS, new_figure, style, svg

RESULTS = DOCS / "results"
IMAGES = DOCS / "images"

PUBLISHED = "best published"
"""The name of a series of which each point is another method."""

Points = list[tuple[float, float]]
"""ε and accuracy in %."""


def table(page: str, section: str, first: str) -> list[list[str]]:
    """Return the cells of a table: the one of a section whose head begins with a cell.

    >>> table("index.md", "Published", "data")[0]
    ['data', 'ε', 'test accuracy', 'of']
    """
    text = (RESULTS / page).read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"
    ]
    start = next(number for number, row in enumerate(rows) if row[0] == first)
    width = len(rows[start])
    body = [row for row in rows[start + 2 :] if len(row) == width]
    ends = next((number for number, row in enumerate(body) if set(row[0]) <= {"-"} and row[0]), len(body) + 1)
    return [rows[start], *body[: ends - 1]]


def trained(data: str, recipe: str) -> Points:
    """Return what the recipes of a kind have reached on a data set: means of their runs."""
    found = []
    for row in table("index.md", "Training", "data")[1:]:
        if row[0] == data and re.search(rf"eps[\d.]+-{recipe}\.toml", row[2]):
            value = re.search(r"mean ([\d.]+)", row[3]) or re.search(r"([\d.]+) %", row[3])
            assert value, row
            found.append((float(row[1]), float(value[1])))
    return sorted(found)


def published(data: str) -> Points:
    """Return the published figures of a data set, the best at each ε."""
    rows = table("index.md", "Published", "data")[1:]
    best: dict[float, float] = {}
    for row in rows:
        if row[0] == data:
            best[float(row[1])] = max(best.get(float(row[1]), 0.0), float(row[2].removesuffix(" %")))
    return sorted(best.items())


def learned(section: str, row: str) -> Points:
    """Return a row of a table of synthetic images whose columns are values of ε; of two figures the MLP's."""
    head, *rows = table("synthesis.md", section, "")
    (cells,) = [one for one in rows if one[0].startswith(row)]
    budgets = [float(cell.removeprefix("ε = ")) for cell in head[1:]]
    numbers = [float(re.findall(r"[\d.]+", cell.partition("±")[0])[-1]) for cell in cells[1:]]
    return sorted(zip(budgets, numbers, strict=True))


def drawn(title: str, series: dict[str, Points]) -> bytes:
    """Return a chart of accuracy against ε, each point with its number, on white in light and dark."""
    with style():
        figure, axes = new_figure(6.4, 4.2)
        axes.set_xscale("log")
        best = {
            x: max(b for points in series.values() for a, b in points if a == x) for x in _budgets(series)
        }
        for number, (name, points) in enumerate(series.items()):
            look = {"color": COLOURS[number], "marker": MARKS[number], "label": name}
            axes.plot(*zip(*points, strict=True), linestyle="none" if name == PUBLISHED else "-", **look)
            for x, y in points:
                text = {"ha": "center", "fontsize": 9, "color": COLOURS[number]}
                at = (0, 6 if y == best[x] else -14)
                axes.annotate(f"{y:g}", (x, y), at, textcoords="offset points", **text)
        ticks = _budgets(series)
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.set_xticks([], minor=True)
        axes.margins(x=0.08, y=0.15)
        axes.set_xlabel("ε")
        axes.set_ylabel("test accuracy in %")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, fontsize=9)
    return svg(figure, title)


def _budgets(series: dict[str, Points]) -> list[float]:
    return sorted({x for points in series.values() for x, _ in points})


def classifiers(data: str, **recipes: str) -> Callable[[], tuple[str, dict[str, Points]]]:
    def of_pages() -> tuple[str, dict[str, Points]]:
        ours = {
            name.replace("_", "-", 1).replace("_", " "): trained(data, recipe)
            for name, recipe in recipes.items()
        }
        return f"Classifiers of {data}, δ = 1e-5", ours | {PUBLISHED: published(data)}

    return of_pages


def synthetic() -> tuple[str, dict[str, Points]]:
    title = "Fashion-MNIST: an MLP that learned from synthetic images, δ = 1e-5"
    return title, {
        "dp-moments": learned("dp-moments", "MLP"),
        "dp-mepf": learned("Fashion-MNIST", "MLP"),
        "DP-MEPF (2205.12900)": learned("Fashion-MNIST", "DP-MEPF"),
    }


CHARTS: dict[str, Callable[[], tuple[str, dict[str, Points]]]] = {
    "results-cifar10.svg": classifiers("CIFAR-10", dp_randp="head", dp_sgd_from_scratch="dp-sgd"),
    "results-fashion-mnist.svg": classifiers("Fashion-MNIST", dp_randp="head", dp_sgd_from_scratch="dp-sgd"),
    "results-synthetic.svg": synthetic,
}
"""What each chart shows, by its name in docs/images/."""


def main(names: Sequence[str] = tuple(CHARTS)) -> None:
    for name in names:
        (IMAGES / name).write_bytes(drawn(*CHARTS[name]()))
        print(f"wrote {IMAGES / name}")


if __name__ == "__main__":
    main()
