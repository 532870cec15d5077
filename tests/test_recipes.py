"""Every recipe file can be run as it is, and its plan stays within its budget."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import dpvision
from dpvision.cli.options import collect
from dpvision.methods import Estimate, find_method

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
# What is public of the data sets that the recipes are for: N and the image shape.
FACTS = {
    "mnist": (60_000, (1, 28, 28)),
    "fashion-mnist": (60_000, (1, 28, 28)),
    "cifar10": (50_000, (3, 32, 32)),
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_can_be_planned(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = [name for name in FACTS if recipe.stem.startswith(name)]
    count, shape = FACTS[name]
    images = dpvision.Images(
        torch.zeros(count, *shape, dtype=torch.uint8),
        torch.arange(count) % 10,
        tuple("0123456789"),
        source="stand-in",
    )
    options = collect(recipe)
    options.pop("data", None)
    for of_images in ("count", "formats", "balanced"):
        options.pop(of_images, None)
    # What a step takes is measured in tests of the methods.
    method = find_method(options["method"])
    monkeypatch.setattr(type(method), "estimate", lambda *_: Estimate(seconds=1.0, memory_bytes=1))
    plan = dpvision.plan(images, **options)
    assert 0.99 * options["epsilon"] <= plan.epsilon <= options["epsilon"]
    assert plan.delta == options["delta"] == 1e-5
    if options["method"] != "dp-mepf":
        calibration = [50] if getattr(plan.config, "calibration_share", 0) else []
        assert [stage.count for stage in plan.stages] == [plan.config.steps, *calibration]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_carry_their_command_and_figures(recipe: Path) -> None:
    comments = [line for line in recipe.read_text().splitlines() if line.startswith("#")]
    text = " ".join(line.removeprefix("#").strip() for line in comments)
    assert "dpvision train" in text or "dpvision synthesize" in text
    assert f"--config recipes/{recipe.name}" in text
    assert re.search(r"Test accuracy.*(\d\d\.\d+.* %|not measured)", text)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_say_where_their_data_are_from(recipe: Path) -> None:
    """In the head, and on the page that it names, which has a row with the files of that data set."""
    (name,) = [name for name in FACTS if recipe.stem.startswith(name)]
    head = recipe.read_text().partition("\n\n")[0].replace("\n# ", " ")
    count, shape = FACTS[name]
    assert re.search(
        rf"where {name} is .*{count:,} .* of {shape[1]} pixels.*docs/guide/getting-data\.md", head
    )
    assert "licence" in head
    page = (recipe.parents[1] / "docs" / "guide" / "getting-data.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1].startswith(f"{count:,} / ")
    assert "`" in cells[2], "names no file"
    assert re.search(r"CC BY|MIT|no licence", cells[3])
