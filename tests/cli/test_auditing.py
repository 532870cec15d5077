"""dpvision audit and membership, from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpvision
from dpvision.cli.main import run

DIGITS = "bundled:digits"
FAST = ["--method", "dp-ridge", "--set", "encoder=pixels"]


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_an_audit(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", DIGITS, "--epsilon", "2", *FAST, "--json"]) == 0
    found = last_line(capsys)
    assert (found["canaries"], found["canary_kind"], found["confidence"]) == (1000, "gradient", 0.95)
    assert 0 <= found["epsilon_lower_bound"] < found["epsilon"] <= 2
    assert found["notice"].startswith("private")

    assert run(["audit", DIGITS, "--epsilon", "2", *FAST, "--canaries", "30", "--confidence", "0.9"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("NOT FOR PUBLICATION")
    assert "nothing against the claim" in shown
    assert "confidence 0.9" in shown

    assert run(["ledger", DIGITS, "--json"]) == 0
    runs = last_line(capsys)["runs"]
    assert [one["open"] for one in runs] == [False, False]
    assert all(one["epsilon_spent"] > 1.9 for one in runs)


def test_every_figure_of_an_audit_is_under_a_relation(capsys: pytest.CaptureFixture[str]) -> None:
    """The ε of mislabelled canaries is larger than what was asked for, and says why."""
    assert run(["audit", DIGITS, "--epsilon", "2", *FAST, "--canary-kind", "mislabelled"]) == 0
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    asked = (
        "epsilon 2 at delta 1e-05 under add_or_remove_one: data sets that differ by the presence of one image"
    )
    assert rows["asked"] == asked
    assert re.fullmatch(r"epsilon (1\.99\d*|2) under add_or_remove_one", rows["spent"])
    replaced = "under replace_one: data sets that differ by the content of one image"
    assert re.fullmatch(rf"epsilon [23]\.\d+ {replaced}", rows["tested"])
    for bound in ("epsilon is at least", "by (ε, δ) alone"):
        assert "under replace_one (confidence 0.95" in rows[bound]
    assert "to replace one image is to remove it and to add another" in rows["meaning"]


def test_an_audit_says_when_it_cannot_find_anything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["audit", DIGITS, "--epsilon", "9", *FAST, "--canaries", "20"]) == 0
    assert "so few cannot refute the claim" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--canaries", "images"], ["--canaries", "40", "--canary-kind", "images"]]
)
def test_an_audit_with_worst_images(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--set", "steps=2", "--set", "network=linear"]
    assert run(["audit", DIGITS, "--epsilon", "2", *few, *arguments]) == 0
    shown = capsys.readouterr().out
    assert "largest contribution" in shown
    assert "of the sensitivity" in shown
    assert f"{arguments[1] if arguments[1] == '40' else 1000} images" in shown


def test_an_audit_of_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""data = "{DIGITS}"
epsilon = 2
out = "nowhere"
test = "{DIGITS}"
[config]
network = "linear"
steps = 4
expected_batch_size = 300
learning_rate = 0.5
"""
    )
    assert run(["audit", "--config", str(recipe), "--canary-kind", "mislabelled", "--json"]) == 0
    found = last_line(capsys)
    assert (found["method"], found["releases"], found["canaries"]) == ("dp-sgd", 4, 143)
    assert (found["target_epsilon"], found["neighboring_relation"]) == (2, "add_or_remove_one")
    assert found["epsilon"] <= 2 < found["tested_epsilon"]
    assert found["tested_relation"] == "replace_one"
    assert list(tmp_path.iterdir()) == [recipe]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", DIGITS], "--epsilon is missing"),
        (["audit", "--epsilon", "2"], "DATA is missing"),
        (["audit", DIGITS, "--epsilon", "2", "--canary-kind", "yellow"], "there are no canaries 'yellow'"),
        (["audit", DIGITS, "--epsilon", "2", "--canaries", "yellow"], "there are no canaries 'yellow'"),
        (
            ["audit", DIGITS, "--epsilon", "2", "--canaries", "images", "--canary-kind", "gradient"],
            "--canaries names a kind, 'images', and --canary-kind another",
        ),
        (["audit", DIGITS, "--epsilon", "2", "--canaries", "3"], "at least 20, not 3"),
        (["audit", DIGITS, "--epsilon", "2", "--confidence", "2"], "confidence must lie strictly"),
        (["audit", DIGITS, "--epsilon", "2", "--method", "dp-magic"], "there is no method 'dp-magic'"),
        (["audit", "nosuch", "--epsilon", "2"], "nosuch"),
        (["membership", "nosuch"], "nosuch"),
        (["membership", "nosuch", "--shadow-models", "1"], "must be 0 or at least 4, not 1"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, check_sentence: Callable[[list[str], str], None]
) -> None:
    check_sentence(arguments, message)


def test_membership(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run(["train", DIGITS, "--epsilon", "2", "--out", out, *FAST]) == 0
    capsys.readouterr()
    assert run(["membership", out, "--json"]) == 0
    found = last_line(capsys)
    assert [attack["name"] for attack in found["attacks"]] == ["confidence", "confidence by class"]
    assert found["blind"]["low"] < 0.5 < found["blind"]["high"]
    assert found["warning"] is None
    assert run(["membership", f"{out}/release", "--members", DIGITS, "--non-members", DIGITS]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("NOT FOR PUBLICATION")
    assert "1437 members, 360 non-members" in shown
    assert f"blind, by the images alone: AUC {found['blind']['auc']:.4f}" in shown
    of_attacks = [line for line in shown.splitlines() if line.startswith("confidence")]
    assert len(of_attacks) == 2
    assert all("AUC 0.5" in line or "AUC 0.4" in line for line in of_attacks)


def test_membership_of_sets_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run(["train", DIGITS, "--epsilon", "2", "--out", out, *FAST]) == 0
    test = dpvision.open_images(DIGITS, "test")
    np.savez(tmp_path / "bright.npz", images=255 - test.take(torch.arange(360))[:, 0], labels=test.labels)
    capsys.readouterr()
    others = ["--non-members", str(tmp_path / "bright.npz")]
    assert run(["membership", out, *others]) == 0
    shown = capsys.readouterr()
    assert "THE SETS DIFFER IN KIND, see the warning" in shown.out
    assert "members and non-members differ in kind" in shown.err
    assert run(["membership", out, *others, "--json"]) == 0
    found = last_line(capsys)
    assert found["blind"]["auc"] > 0.9
    assert found["blind"]["sets_differ"]
    assert "measures the difference of the sets" in found["warning"]
