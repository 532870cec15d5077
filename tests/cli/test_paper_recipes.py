"""The recipes that are DP-MEPF as published run from the command line, with whatever weights the user has."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dpvision.cli.main import run
from dpvision.networks.resnet import resnet18_small
from dpvision.networks.vgg import vgg19

RECIPES = Path(__file__).parents[2] / "recipes"
SHORT = ["--set", "steps=2", "--set", "batch_size=20", "--count", "30", "--format", "npz", "--json"]


def weights_of(network: nn.Module, classifier: str, path: Path) -> None:
    """A file as torchvision's state_dict makes it, with the classifier that nobody needs."""
    save_file({**network.state_dict(), classifier: torch.zeros(10, 3)}, path)


@pytest.mark.parametrize(
    ("data", "shape", "features"),
    [
        ("cifar10", (16, 16, 3), 75_776),
        ("mnist", (28, 28), 425_984),
        ("fashion-mnist", (28, 28), 425_984),
    ],
)
def test_a_recipe_of_the_paper_runs(
    data: str,
    shape: tuple[int, ...],
    features: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = RECIPES / f"{data}-dp-mepf-paper.toml"
    named = tomllib.loads(recipe.read_text())["config"]["encoder_options"]["weights"]
    torch.manual_seed(0)
    if data == "cifar10":
        weights_of(vgg19(), "classifier.6.weight", tmp_path / named)
    else:
        weights_of(resnet18_small(), "fc.weight", tmp_path / named)
    random = np.random.default_rng(0)
    images = random.integers(256, size=(40, *shape), dtype=np.uint8)
    np.savez(tmp_path / "made.npz", images=images, labels=np.arange(40) % 10)
    assert run(["synthesize", "made.npz", "--config", str(recipe), "--out", "run", *SHORT]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["epsilon"] <= 1
    card = json.loads((tmp_path / "run" / "release" / "card.json").read_text())
    assert card["embedding"]["features"] == features
    assert card["embedding"]["numbers"] == 10 * (2 * features + 1)  # both moments of ten classes, and counts
    assert card["generator"]["objective"] == "moving_average"
    config = json.loads((tmp_path / "run" / "release" / "config.json").read_text())
    assert config["generator"]["published_network"] is True
    assert config["generator"]["start"] is None
    made = np.load(tmp_path / "run" / "release" / "images" / "npz" / "images.npz")
    assert made["images"].shape[:3] == (30, *shape[:2])
