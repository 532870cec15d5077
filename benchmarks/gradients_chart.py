"""Draw the ratios that ``gradients.py --json`` found as bars, in SVG.

    python benchmarks/gradients_chart.py found.json [more.json …] --out docs/images/gradients.svg

A group for each network, K and precision, a bar for each contestant but plain SGD, whose speed is the line
at 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, BAR, GAP, HEAD = 760, 300, 14, 12, 44
COLOURS = {
    "ours": "#1b6ca8", "before": "#9ecae1", "compiled": "#444444", "opacus-hooks": "#d95f02",
    "opacus-ghost": "#fdae6b", "vmap": "#7a9a01", "vmap-compiled": "#c2d98a",
}  # fmt: skip
FONT = 'font-family="sans-serif" font-size="12" fill="#222222"'


def chart(tables: Sequence[dict[str, Any]]) -> str:
    """Return the chart as SVG."""
    largest = max(1.0, *(row["of_plain"] for table in tables for row in table["rows"]))
    scale = (WIDTH - LEFT - 60) / largest
    lines, y = list(_legend(tables)), HEAD
    for table in tables:
        title = f"{table['network']}, K = {table['views']}, {table['precision']}"
        rows = [row for row in table["rows"] if row["name"] != "plain"]
        lines.append(f'<text x="{LEFT - 12}" y="{y + 11}" text-anchor="end" {FONT}>{escape(title)}</text>')
        for row in rows:
            wide = scale * row["of_plain"]
            colour = COLOURS[row["name"]]
            lines.append(f'<rect x="{LEFT}" y="{y}" width="{wide:.1f}" height="{BAR - 2}" fill="{colour}"/>')
            lines.append(f'<text x="{LEFT + wide + 4:.1f}" y="{y + 10}" {FONT}>{row["of_plain"]:.2f}</text>')
            y += BAR
        y += GAP
    at_one = f"{LEFT + scale:.1f}"
    ends = f'x1="{at_one}" y1="{HEAD - 6}" x2="{at_one}" y2="{y}"'
    line = f'<line {ends} stroke="#222222" stroke-dasharray="3 3"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 4}">'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([head, ground, *lines, line, "</svg>"]) + "\n"


def _legend(tables: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f'<text x="12" y="24" {FONT}>views a second over those of plain SGD:</text>'
    there = {row["name"] for table in tables for row in table["rows"]}
    x = LEFT
    for name in (name for name in COLOURS if name in there):
        yield f'<rect x="{x}" y="14" width="12" height="12" fill="{COLOURS[name]}"/>'
        yield f'<text x="{x + 16}" y="24" {FONT}>{name}</text>'
        x += 30 + 7 * len(name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("found", nargs="+", type=Path, help="what gradients.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the SVG file")
    options = parser.parse_args()
    tables = [table for path in options.found for table in json.loads(path.read_text())["tables"]]
    options.out.write_text(chart(tables))


if __name__ == "__main__":
    main()
