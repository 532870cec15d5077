"""The charts of the results show what the tables of their pages say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from checks import result_charts
from checks.result_charts import CHARTS, IMAGES, RESULTS, drawn, table


def texts(picture: bytes) -> list[str]:
    found = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")
    return [one.text or "" for one in found]


@pytest.mark.parametrize("name", CHARTS)
def test_they_are_up_to_date(name: str) -> None:
    kept = (IMAGES / name).read_bytes()
    title, series = CHARTS[name]()
    assert kept == drawn(title, series), "run python -m checks.result_charts"
    numbers = [f"{y:g}" for points in series.values() for _, y in points]
    assert len(numbers) >= 4
    assert set(numbers) <= set(texts(kept))


def test_a_table_that_changes_changes_the_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = CHARTS["results-cifar10.svg"]()
    rows = [
        [cell.replace("mean 80.54", "mean 80.64") for cell in row]
        for row in table("index.md", "Training", "data")
    ]
    monkeypatch.setattr(
        result_charts,
        "table",
        lambda page, section, first: rows if section == "Training" else table(page, section, first),
    )
    title, after = CHARTS["results-cifar10.svg"]()
    assert after["dp-randp"][-1] == (8.0, 80.64)
    assert drawn(title, after) != drawn(*before)


@pytest.mark.parametrize("name", CHARTS)
def test_who_does_not_see_them_is_told_the_numbers(name: str) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in RESULTS.glob("*.md"))
    told = pages.partition(f"](../images/{name})")[0].rpartition("![")[2]
    for points in CHARTS[name]()[1].values():
        assert f"{points[0][1]:.3g}".rstrip("0").rstrip(".") in told, (name, points)
