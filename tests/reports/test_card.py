"""What the card says, and what it keeps to itself."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.images import Images
from dpvision.methods import Calibrated
from dpvision.methods.stages import Stage
from dpvision.privacy import (
    Account,
    Budget,
    GaussianSumMechanism,
    PoissonSampler,
    PublicFacts,
    SeededRandom,
    epsilon,
    gaussian_event,
)
from dpvision.reports import card_markdown, guarantee

CONFIG = {"network": "linear", "steps": 6, "expected_batch_size": 40, "max_grad_norm": 0.731}


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(157) % 3 == 0).to(torch.int64)  # 53 of one class, 104 of the other
    pixels = torch.randint(256, (157, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Images(pixels, labels, ("cat", "dog"), "/home/someone/patients")


def card_of(run: Path) -> tuple[dict[str, Any], str]:
    release = run / "release"
    return json.loads((release / "card.json").read_text()), (release / "card.md").read_text()


def test_the_card_states_the_guarantee_and_how_it_was_got(images: Images, tmp_path: Path) -> None:
    test = replace(images, pixels=images.pixels ^ 1).subset(range(20))
    result = dpvision.train(
        images, epsilon=2.5, delta=1e-4, out=tmp_path / "run", config=CONFIG, test=test,
        neighboring_relation="replace_one",
    )  # fmt: skip
    card, text = card_of(tmp_path / "run")
    assert card["is_private"] is True
    assert card["model"]["encoder"] is None
    assert "encoder" not in text
    assert "NOT PRIVATE" not in text
    assert (card["delta"], card["neighboring_relation"]) == (1e-4, "replace_one")
    (mechanism,) = card["mechanisms"]
    assert (mechanism["count"], mechanism["sensitivity"]) == (6, 0.731)
    assert (mechanism["sample_rate"], card["num_examples"]) == (40 / 157, 157)
    event = gaussian_event(mechanism["noise_multiplier"], mechanism["sample_rate"], mechanism["count"])
    assert card["epsilon"] == result.epsilon == epsilon([event], 1e-4, "replace_one") <= 2.5
    assert card["accountant"]["epsilon_by_rdp"] == epsilon([event], 1e-4, "replace_one", "rdp")
    assert result.test_accuracy is not None
    assert card["test"] == {
        "accuracy": result.test_accuracy.value,
        "interval_95": list(result.test_accuracy.interval),
        "correct": result.test_accuracy.correct,
        "total": 20,
    }
    assert card["versions"].keys() == {"python", "dpvision", "torch", "dp-accounting", "matplotlib"}
    for fact in ("157", "cat, dog", "0.0001", "replace_one", "not covered", "0.731", "Clopper"):
        assert fact in text


def test_the_guarantee_states_what_was_spent_and_not_what_was_planned() -> None:
    mechanism = GaussianSumMechanism(2.0, 1.0, PoissonSampler(157, 0.25))
    stages = Calibrated(2.0, (Stage("a sum", mechanism, 6),), 3.0)
    account = Account(Budget(3.0, 1e-4), None, "run", stages.events)
    account.open()
    account.record(mechanism.event)
    account.record(mechanism.event)
    facts = PublicFacts(157, (1, 4, 4), ("cat", "dog"))
    stated = guarantee(account, stages, SeededRandom(0), facts, None)
    assert stated["epsilon"] == epsilon([mechanism.cost(2)], 1e-4, "add_or_remove_one")
    assert stated["accountant"]["epsilon_by_rdp"] == epsilon(
        [mechanism.cost(2)], 1e-4, "add_or_remove_one", "rdp"
    )
    assert [spent["count"] for spent in stated["mechanisms"]] == [2]


def test_nothing_private_is_in_the_release(images: Images, tmp_path: Path) -> None:
    dpvision.train(images, epsilon=2, out=tmp_path / "run", config=CONFIG)
    names = {path.name for path in (tmp_path / "run" / "release").iterdir()}
    assert names == {
        *("model.safetensors", "config.json", "guarantee.json"),
        *("card.json", "card.md", "card.html"),
    }
    card, text = card_of(tmp_path / "run")
    everything = json.dumps(card) + text + (tmp_path / "run" / "release" / "config.json").read_text()
    private = json.loads((tmp_path / "run" / "private" / "run.json").read_text())
    metrics = [
        json.loads(line) for line in (tmp_path / "run" / "private" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(metrics) == 6
    for secret in (images.digest, private["run_id"], private["ledger"], "patients"):
        assert secret in json.dumps(private) + images.source  # so that the search below is not for nothing
        assert secret not in everything
    for line in metrics:
        for value in (line["mean_loss"], line["median_norm"]):
            assert f"{value:.6g}" not in everything
    numbers = set(_numbers(card))
    assert numbers.isdisjoint({53, 104})  # the class counts
    assert sum(line["batch_size"] for line in metrics) not in numbers
    allowed = {40}  # the expected batch size, and by chance an actual one
    assert {line["batch_size"] for line in metrics} & (numbers - allowed - {6, 34, 157}) == set()


def test_other_private_images_make_the_same_card(images: Images, tmp_path: Path) -> None:
    """Of the same number, shape and classes, with the same noise: nothing else of them is on it."""
    other = replace(images, pixels=images.pixels // 2, labels=(torch.arange(157) < 30).long())
    cards = []
    for name, of in (("one", images), ("other", other)):
        dpvision.train(of, epsilon=2, out=tmp_path / name, config=CONFIG, seed=5)
        card, _ = card_of(tmp_path / name)
        cards.append({**card, "training_seconds": 0})
    assert cards[0] == cards[1]


def test_the_last_digits_of_the_time_are_not_told(images: Images, tmp_path: Path) -> None:
    dpvision.train(images, epsilon=2, out=tmp_path / "run", config=CONFIG)
    seconds = card_of(tmp_path / "run")[0]["training_seconds"]
    assert seconds == 0 or seconds == round(seconds, -math.floor(math.log10(seconds)))


def test_a_seeded_run_says_that_it_is_not_private(images: Images, tmp_path: Path) -> None:
    dpvision.train(images, epsilon=2, out=tmp_path / "run", config=CONFIG, seed=3)
    card, text = card_of(tmp_path / "run")
    assert card["is_private"] is False
    assert "\n# NOT PRIVATE\n" in text
    assert "fixed seed" in card["noise"]


def test_noise_of_another_kind_is_told_by_its_own_facts(images: Images, tmp_path: Path) -> None:
    dpvision.train(images, epsilon=2, out=tmp_path / "run", config=CONFIG)
    card, _ = card_of(tmp_path / "run")
    other = {"name": "Laplace noise on counts", "sensitivity": 1.0, "scale": 30.0, "count": 3}
    text = card_markdown({**card, "mechanisms": [*card["mechanisms"], other]})
    assert "\n| Laplace noise on counts, scale 30.0 |  |  | 1 | 3 |\n" in text


def test_the_markdown_needs_every_fact(images: Images, tmp_path: Path) -> None:
    dpvision.train(images, epsilon=2, out=tmp_path / "run", config=CONFIG)
    card, text = card_of(tmp_path / "run")
    assert card_markdown(card) == text
    assert "accuracy is not known" in text
    for name in ("is_private", "epsilon", "mechanisms", "not_covered", "lost_steps", "versions"):
        with pytest.raises(Exception, match=name):
            card_markdown({key: value for key, value in card.items() if key != name})


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
