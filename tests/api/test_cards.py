"""dpvision.registry_entry and compare: releases in other forms, from what may be published alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import dpvision
from dpvision.cli.main import run
from dpvision.images import Images
from dpvision.privacy import Event, InputError, epsilon
from dpvision.reports.comparison import accuracy_difference
from dpvision.reports.markdown import card_markdown

NAMES = ("- a: [1] {b}", "!!python/object:os 'x' \"é\" 医")
FACTS: dict[str, Any] = {
    "curator": "Clinic: {north}\n# east",
    "curator_type": "Nonprofit",
    "intended_use": "research",
    "region": "Europe",
    "sector": "Healthcare",
    "published": "2026-11-30",
    "author": ["A. Writer", "!!python/object"],
    "data_source": "Photographs of 2020.",
    "preprocessing": "None.",
    "security": "Locked.",
    "justification": "Agreed.",
}
RIDGE = {"method": "dp-ridge", "config": {"encoder": "pixels"}}


def some_images(seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (120, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(120) % 2, NAMES, "made up")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same images, one on others, one with a seed and one on units."""
    folder = tmp_path_factory.mktemp("runs")
    test = some_images(1).subset(range(50))
    dpvision.train(some_images(), epsilon=1, out=folder / "one", test=test, **RIDGE)
    dpvision.train(some_images(), epsilon=2, delta=1e-3, out=folder / "two", test=test, **RIDGE)
    dpvision.train(
        some_images(2), epsilon=1, neighboring_relation="replace_one", out=folder / "others", **RIDGE
    )
    dpvision.train(some_images(), epsilon=1, seed=1, out=folder / "seeded", **RIDGE)
    patients = some_images().with_units([index // 4 for index in range(120)])
    dpvision.train(patients, epsilon=1, out=folder / "patients", **RIDGE)
    return folder


def card_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "release" / "card.json").read_bytes())


# The registry --------------------------------------------------------------------------------------------


def test_an_entry_says_what_the_release_says(runs: Path) -> None:
    entry = dpvision.registry_entry(runs / "one", **FACTS)
    assert entry == dpvision.registry_entry(runs / "one" / "release", **FACTS)
    card, deployment = card_of(runs / "one"), entry["deployment"]
    loss = deployment["privacy_loss"]
    assert loss["privacy_parameters"] == {"epsilon": card["epsilon"], "delta": card["delta"]}
    events = [Event.from_json(one["event"]) for one in card["events"]]
    replaced = epsilon(events, card["delta"], "replace_one")
    told = f"ε for `replace_one`, at δ = {card['delta']:.4g}: {replaced:.4g}"
    assert told in loss["privacy_parameters_details"]
    assert f"{card['test']['correct']} of 50 test images" in deployment["implementation"]["utility"]


def test_it_is_made_of_the_release_alone(runs: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs / "one" / "release", tmp_path / "copy"))
    assert dpvision.registry_entry(copy, **FACTS) == dpvision.registry_entry(runs / "one", **FACTS)
    private = json.loads((runs / "one" / "private" / "run.json").read_bytes())
    text = json.dumps(dpvision.registry_entry(runs / "one", **FACTS))
    assert not [value for value in private.values() if value in text]


def test_a_run_that_is_not_private_is_refused(runs: Path) -> None:
    with pytest.raises(InputError, match=r"is NOT PRIVATE \(the noise came from a fixed seed"):
        dpvision.registry_entry(runs / "seeded", **FACTS)


def test_a_release_that_does_not_hold_is_refused(runs: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs / "one" / "release", tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_bytes())
    card["epsilon"] /= 2
    (copy / "card.json").write_text(json.dumps(card))
    (copy / "card.md").write_text(card_markdown(card))
    with pytest.raises(
        InputError, match=r"does not hold what it states .*files unchanged: changed: card\.json"
    ):
        dpvision.registry_entry(copy, **FACTS)


def test_of_units_it_is_asked_what_they_are(runs: Path) -> None:
    with pytest.raises(InputError, match=r"unit_is=… \(unit_is: what one unit is"):
        dpvision.registry_entry(runs / "patients", **FACTS)
    entry = dpvision.registry_entry(runs / "patients", **FACTS, unit_is="patient")
    assert entry["deployment"]["privacy_loss"]["privacy_unit"] == "patient"


# On the command line -------------------------------------------------------------------------------------


@pytest.fixture
def facts(tmp_path: Path) -> str:
    """The path of a file with all facts."""
    path = tmp_path / "facts.toml"
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in FACTS.items()]
    path.write_text("\n".join(lines).replace('"2026-11-30"', "2026-11-30"))
    return str(path)


def test_the_yaml_is_the_entry_whatever_the_names(
    runs: Path, facts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = dpvision.registry_entry(runs / "one", **FACTS)
    given = ["card", str(runs / "one"), "--registry", "--facts", facts]
    assert run(given) == 0
    assert yaml.safe_load(capsys.readouterr().out) == entry
    out = tmp_path / "entry.yaml"
    assert run([*given, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == yaml.safe_load(out.read_bytes()) == entry
    assert "!!python/object:os 'x' \"é\" 医" in entry["deployment"]["basic"]["description"]
    assert run([*given, "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_options_win_over_the_file(runs: Path, facts: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--region", "Peru", "--author", "B", "--author", "C", "--other-releases", "None."]
    assert run(["card", str(runs / "one"), "--registry", "--facts", facts, *more]) == 0
    deployment = yaml.safe_load(capsys.readouterr().out)["deployment"]
    assert deployment["basic"]["data_product_region"] == "Peru"
    assert deployment["administrative"]["registry_authors"] == ["B", "C"]
    assert deployment["deployment_model"]["release_type_details"].endswith("None.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--registry", "--curator", "x"], "--curator-type … (curator_type: what the curator is"),
        (["--registry", "--curator", "x"], "--justification … (justification: why"),
        (["--registry", "--curator", " "], "--curator … is blank"),
        (["--registry", "--published", "today"], "published must be a day"),
        (["--registry", "--facts", "unknown.toml"], "unknown.toml: there is no fact 'curater'"),
        (["--registry", "--facts", "broken.toml"], "broken.toml is not TOML"),
        (["two", "--registry"], "leave the other out"),
        (["two", "--curator", "x"], "go with --registry"),
        (["--with", "broken.toml"], "say where it is to be with --out"),
        (["two", "--with", "broken.toml"], "leave the other out"),
        (["--registry", "--with", "broken.toml"], "leave one out"),
        (["nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_written(
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unknown.toml").write_text("curater = 'x'")
    Path("broken.toml").write_text("curator =")
    out = ["--out", "entry.yaml"] if "--registry" in arguments else []
    assert run(["card", str(runs / "one"), *arguments, *out]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert message in line
    assert captured.out == ""
    assert not Path("entry.yaml").exists()


# Two releases --------------------------------------------------------------------------------------------


def test_what_differs_and_what_is_the_same(runs: Path) -> None:
    found = dpvision.compare(runs / "one", runs / "two" / "release")
    one, two = card_of(runs / "one"), card_of(runs / "two")
    assert found.differs["epsilon"] == (one["epsilon"], two["epsilon"])
    assert found.differs["delta"] == (one["delta"], two["delta"])
    assert found.same["method"] == "dp-ridge"
    assert found.same["config.encoder"] == "pixels"
    assert not found.differs.keys() & found.same.keys()
    assert found.differs.keys() >= {"mechanisms", "target epsilon"}
    assert "directories of both runs" in found.together.says
    assert not found.together.is_private
    itself = dpvision.compare(runs / "one", runs / "one")
    assert (itself.differs, itself.together.says) == ({}, "both are the same run")


def test_what_both_cost_is_composed_where_the_images_are_the_same(runs: Path) -> None:
    together = dpvision.compare(runs / "one", runs / "two").together
    cards = [card_of(runs / name) for name in ("one", "two")]
    events = [Event.from_json(one["event"]) for card in cards for one in card["events"]]
    delta = min(card["delta"] for card in cards)
    assert together.epsilons == {"add_or_remove_one": epsilon(events, delta)}
    assert (together.delta, together.same_images, together.is_private) == (delta, True, True)
    assert max(card["epsilon"] for card in cards) < together.epsilons["add_or_remove_one"] < 3


def test_what_a_refinement_has_taken_over_is_counted_once(tmp_path: Path) -> None:
    made: dict[str, Any] = {"epsilon": 1, "delta": 1e-3, "count": 4, "formats": ("npz",)}
    config = {"rank": 2}
    dpvision.synthesize(some_images(), out=tmp_path / "one", config=config, **made)
    dpvision.synthesize(some_images(), out=tmp_path / "two", **made, refine=tmp_path / "one")
    together = dpvision.compare(tmp_path / "one", tmp_path / "two").together
    assert together.epsilons == {"add_or_remove_one": card_of(tmp_path / "two")["epsilon"]}


def test_without_their_ledger_it_is_not_known(runs: Path, tmp_path: Path) -> None:
    ledger = tmp_path / "own.jsonl"
    dpvision.train(some_images(), epsilon=1, out=tmp_path / "run", ledger=ledger, **RIDGE)
    both = (runs / "one", tmp_path / "run")
    assert dpvision.compare(*both).together.epsilons  # also in two ledgers
    ledger.unlink()
    together = dpvision.compare(*both).together
    assert (together.epsilons, together.same_images) == ({}, True)
    assert "does not tell what both cost" in together.says


@pytest.mark.parametrize(
    ("other", "says", "same_images"),
    [
        ("others", "different data sets", False),
        ("seeded", "NOT PRIVATE", True),
        ("patients", "other labels or units", False),
    ],
)
def test_where_no_cost_is_of_both(runs: Path, other: str, says: str, same_images: bool | None) -> None:
    together = dpvision.compare(runs / "one", runs / other).together
    assert together.epsilons == {}
    assert says in together.says
    assert together.same_images is same_images


def test_both_relations_are_told_where_they_differ(runs: Path) -> None:
    found = dpvision.compare(runs / "one", runs / "others")
    assert found.differs["neighboring_relation"] == ("add_or_remove_one", "replace_one")
    assert found.accuracy is None


def test_a_comparison_is_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["card", str(runs / "one"), str(runs / "two"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differs"]["epsilon"] == [card_of(runs / name)["epsilon"] for name in ("one", "two")]
    assert found["accuracy"]["totals"] == [50, 50]
    assert found["accuracy"]["is_within"] == (found["accuracy"]["low"] <= 0 <= found["accuracy"]["high"])
    assert run(["card", str(runs / "one"), str(runs / "two")]) == 0
    text = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in text.splitlines()]
    one, two = (card_of(runs / name)["epsilon"] for name in ("one", "two"))
    assert f"epsilon {one:.6g} {two:.6g}" in lines
    assert "do not publish it" in text
    assert text.index("epsilon") < text.index("Accuracy: B is") < text.index("The same in both:")


@pytest.mark.parametrize(
    "change", [{"mechanisms": 3}, {"test": {"accuracy": "x"}}, {"config": None}, {"versions": ["x"]}]
)
def test_a_damaged_card_is_told(runs: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    copy = Path(shutil.copytree(runs / "one" / "release", tmp_path / "copy"))
    (copy / "card.json").write_text(json.dumps({**card_of(runs / "one"), **change}))
    with pytest.raises(InputError, match=r"the card in .* cannot be read"):
        dpvision.compare(runs / "one", copy)


def test_hostile_values_of_a_card_are_shown_harmless(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(runs / "one" / "release", tmp_path / "copy"))
    hostile = {"method": "\x1b[31m\nThe same", "epsilon": ["\n"], "unit": None, "noise": {"a\n": 1}}
    (copy / "card.json").write_text(json.dumps({**card_of(runs / "one"), **hostile}))
    assert run(["card", str(runs / "one"), str(copy)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\nThe same\n" not in text


def wilson(right: int, total: int) -> dict[str, Any]:
    """A test of a card with Wilson's interval, as in the paper."""
    z, share = 1.959964, right / total
    middle, half = share + z**2 / 2 / total, z * (share * (1 - share) / total + z**2 / 4 / total**2) ** 0.5
    low, high = ((middle + sign * half) / (1 + z**2 / total) for sign in (-1, 1))
    return {"test": {"accuracy": share, "interval_95": [low, high], "total": total}}


def test_the_interval_of_a_difference_is_that_of_the_paper() -> None:
    """Newcombe, table II, (a): 56/70 less 48/80 is 0.2, 0.0524 to 0.3339 by method 10."""
    found = accuracy_difference(wilson(48, 80), wilson(56, 70))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert not found.is_within
    less = accuracy_difference(wilson(56, 70), wilson(48, 80))
    assert less is not None
    assert (less.low, less.high) == pytest.approx((-found.high, -found.low))
    same = accuracy_difference(wilson(48, 80), wilson(50, 80))
    assert same is not None
    assert same.is_within
