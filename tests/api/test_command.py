"""The command on a card makes such a run again, and has no place of the owner's machine in it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import dpvision
from dpvision.cli.main import run
from dpvision.images import open_images

FAST = {"network": "linear", "steps": 3, "expected_batch_size": 50}


def command_of(folder: Path) -> str:
    return str(json.loads((folder / "release" / "card.json").read_text())["made"]["command"])


def test_the_command_makes_such_a_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    given = {"epsilon": 1.5, "delta": 1e-5, "neighboring_relation": "replace_one", "method": "dp-sgd"}
    dpvision.train("bundled:digits", **given, config=FAST, num_examples=1500, size=6, unit="image", out=first)
    words = shlex.split(command_of(first))
    assert words[:3] == ["dpvision", "train", "DATA"]
    places = {"DATA": "bundled:digits", "RUN": str(again)}
    assert run([places.get(word, word) for word in words[1:]]) == 0
    capsys.readouterr()
    one, other = (json.loads((folder / "release" / "card.json").read_text()) for folder in (first, again))
    for name in ("epsilon", "delta", "neighboring_relation", "unit", "num_examples", "events", "config"):
        assert one[name] == other[name], name
    assert one["model"]["image_shape"] == other["model"]["image_shape"] == [1, 6, 6]
    assert command_of(again) == command_of(first)


def test_places_are_not_told(tmp_path: Path) -> None:
    digits = open_images("bundled:digits").subset(range(200))
    np.savez(tmp_path / "secret.npz", images=digits.take(torch.arange(200))[:, 0], labels=digits.labels)
    pool = tmp_path / "hidden-pool"
    pool.mkdir()
    np.savez(pool / "pool.npz", images=np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8))
    dpvision.train(
        tmp_path / "secret.npz",
        epsilon=2,
        method="dp-mix-diff",
        config={**FAST, "pool": str(pool / "pool.npz"), "augmult": 2, "k_diff": 1},
        out=tmp_path / "run",
    )
    command = command_of(tmp_path / "run")
    assert "pool=POOL" in command
    assert "secret" not in command
    assert "hidden" not in command
    assert str(tmp_path) not in command


def test_a_refinement_and_what_is_drawn_again_name_a_release(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    made = {"count": 20, "formats": ["npz"]}
    dpvision.synthesize("bundled:digits", epsilon=1, **made, out=tmp_path / "first", ledger=ledger)
    dpvision.synthesize(
        "bundled:digits", epsilon=1, **made, out=tmp_path / "second", refine=tmp_path / "first", ledger=ledger
    )
    dpvision.synthesize_from(tmp_path / "first", **made, out=tmp_path / "third")
    assert "--refine RELEASE" in command_of(tmp_path / "second")
    assert "refine=" not in command_of(tmp_path / "second")
    assert command_of(tmp_path / "third").startswith("dpvision synthesize --from-release RELEASE --out RUN")
    assert all(str(tmp_path) not in command_of(tmp_path / name) for name in ("second", "third"))
