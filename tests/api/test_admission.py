"""What plan, train and `dpvision ledger` say of the owners' limits, from end to end."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

import dpvision
from dpvision.api.ledgers import account_of, ledger_and_images, limit_used
from dpvision.cli.main import run
from dpvision.images import Images, open_images
from dpvision.privacy import (
    Budget,
    BudgetExceeded,
    InputError,
    Ledger,
    default_ledger_path,
    epsilon,
    gaussian_event,
)
from dpvision.privacy.ledger import About

DELTA = 1e-4
GIVEN: dict[str, Any] = {
    "delta": DELTA, "method": "dp-sgd",
    "config": {"network": "linear", "steps": 5, "expected_batch_size": 16, "learning_rate": 0.5},
}  # fmt: skip
FOLLOWS: dict[str, Any] = {"delta": DELTA, "method": "dp-sgd", "config": {"network": "linear"}}
"""Of which steps and learning rate follow from ε."""


@pytest.fixture
def digits() -> Images:
    return open_images("bundled:digits").subset(range(100))


@pytest.fixture
def half_spent(digits: Images, tmp_path: Path) -> Images:
    """Images 40 to 99, of which 40 to 59 had a run at ε = 1 with the first sixty, whose owner allows 2."""
    first = digits.subset(range(60))
    ledger = Ledger.for_dataset(default_ledger_path(first.digest), first.digest, 60)
    ledger.set_limit(Budget(2.0, DELTA))
    dpvision.train(first, epsilon=1.0, out=tmp_path / "first", **GIVEN)
    return digits.subset(range(40, 100))


def home() -> dict[Path, bytes]:
    """All files that ledgers and the index have."""
    return {
        path: path.read_bytes() for path in Path(os.environ["DPVISION_HOME"]).rglob("*") if path.is_file()
    }


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_plan_writes_nothing_at_all(digits: Images, tmp_path: Path) -> None:
    root = Path(os.environ["DPVISION_HOME"])
    there = root.exists()
    test = open_images("bundled:digits", "test")
    found = dpvision.plan(digits, test=test, epsilon=1.0, ledger=tmp_path / "none.jsonl", **GIVEN)
    assert (found.allowed, found.epsilon_limit, found.epsilon_fits) == (True, None, None)
    assert (found.epsilon_after, found.images_after) == (found.epsilon, 100)
    assert root.exists() == there
    assert home() == {}
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_plan_looks_at_the_index_as_a_run_does(half_spent: Images, tmp_path: Path) -> None:
    before = home()
    found = dpvision.plan(half_spent, epsilon=1.9, **GIVEN)
    assert home() == before
    assert (found.allowed, found.epsilon_limit, found.images_after) == (False, 2.0, 20)
    with pytest.raises(BudgetExceeded, match=f"bring 20 of the images.*epsilon {found.epsilon_after:.4g} "):
        dpvision.train(half_spent, epsilon=1.9, out=tmp_path / "run", **GIVEN)
    allowed = dpvision.plan(half_spent, epsilon=0.5, **GIVEN)
    assert allowed.allowed
    assert 1 < allowed.epsilon_after < 2
    assert allowed.epsilon_fits == found.epsilon_fits


@pytest.mark.parametrize("options", [GIVEN, FOLLOWS], ids=["settings given", "settings follow from ε"])
def test_the_epsilon_that_a_plan_says_fits_is_admitted(
    half_spent: Images, tmp_path: Path, options: dict[str, Any]
) -> None:
    fits = dpvision.plan(half_spent, epsilon=1.9, **options).epsilon_fits
    assert fits is not None
    assert 1 < fits < 2  # more than the difference
    with pytest.raises(BudgetExceeded):
        dpvision.train(half_spent, epsilon=1.02 * fits, out=tmp_path / "more", **options)
    dpvision.train(half_spent, epsilon=fits, out=tmp_path / "run", **options)
    used = limit_used(tmp_path / "run")
    assert used is not None
    assert 1.97 < used.epsilon <= 2
    assert dpvision.plan(half_spent, epsilon=1.0, **options).epsilon_fits == pytest.approx(0, abs=0.3)


def test_nothing_fits_where_all_is_spent(digits: Images) -> None:
    ledger = Ledger.for_dataset(default_ledger_path(digits.digest), digits.digest, len(digits))
    ledger.open_run("before", [gaussian_event(1.0)])
    ledger.set_limit(Budget(1.0, DELTA))
    found = dpvision.plan(digits, epsilon=1.0, **GIVEN)
    assert (found.allowed, found.epsilon_fits) == (False, 0.0)


def test_a_plan_refuses_the_ledger_of_other_images(digits: Images, tmp_path: Path) -> None:
    Ledger.for_dataset(tmp_path / "other.jsonl", "ab" * 32, 7)
    with pytest.raises(InputError, match="belongs to another data set"):
        dpvision.plan(digits, epsilon=1.0, ledger=tmp_path / "other.jsonl", **GIVEN)


def test_the_commands_say_it_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--delta", "1e-5", "--method", "dp-sgd", "--set", "network=linear", "--set", "steps=3"]
    for limit in ("1", "3", "2"):
        assert run(["ledger", "bundled:digits", "--limit-epsilon", limit, "--limit-delta", "1e-5"]) == 0
    assert run(["train", "bundled:digits", "--epsilon", "1", "--out", str(out), *options]) == 0
    assert re.search(r"owner's limit +ε 0\.99", capsys.readouterr().out)
    assert run(["ledger", str(out)]) == 0
    text = capsys.readouterr().out
    (marked,) = [line for line in text.splitlines() if line.startswith("→")]
    assert marked.endswith(str(out.absolute()))
    assert [word in marked for word in ("dp-sgd", "complete", "1437")] == [True] * 3
    for said in ("set to ε 1 at", "raised to ε 3 at", "lowered to ε 2 at", "still fits"):
        assert said in text
    assert run(["ledger", "bundled:digits", "--json"]) == 0
    account = last_line(capsys)
    assert [one["this"] for one in account["runs"]] == [False]
    assert account["worst_image"] == {
        "epsilon": account["epsilon_spent"], "images": 1437, "runs_elsewhere": 0
    }  # fmt: skip
    assert 1 < account["epsilon_fits"] < 2

    assert run(["plan", "bundled:digits", "--epsilon", "1.9", *options]) == 0
    text = capsys.readouterr().out
    assert "NOT allowed: would bring 1437 images to ε " in text
    assert run(["plan", "bundled:digits", "--epsilon", "1.9", *options, "--json"]) == 0
    forecast = last_line(capsys)
    assert (forecast["allowed"], forecast["epsilon_limit"]) == (False, 2.0)
    assert f"--epsilon {forecast['epsilon_fits']:g}, by this method" in text

    published = [path.read_bytes() for path in (out / "release").iterdir()]
    private = [str(tmp_path).encode(), b"owner", b"epsilon_counted"]
    assert not any(name in content for content in published for name in private)


def test_an_audit_is_told_from_a_run(digits: Images) -> None:
    dpvision.audit(digits, epsilon=1.0, canaries=50, **GIVEN)
    (told,) = find_ledger_of(digits).summary()["runs"]
    assert (told["method"], told["folder"], told["images"]) == ("audit of dp-sgd", None, 100)


def find_ledger_of(images: Images) -> Ledger:
    return ledger_and_images(str(default_ledger_path(images.digest)))[0]


def test_two_hundred_runs_are_told_in_seconds(digits: Images) -> None:
    """A few methods and settings, many times, as tuning has it."""
    ledger = Ledger.for_dataset(default_ledger_path(digits.digest), digits.digest, len(digits))
    plans = [gaussian_event(6.0 + number, 0.05, 100) for number in range(5)]
    for number in range(200):
        ledger.open_run(f"run {number}", [plans[number % 5]], About(f"/runs/{number}", "dp-sgd", 100))
        ledger.record(f"run {number}", plans[number % 5])
        ledger.close_run(f"run {number}")
    ledger.set_limit(Budget(50.0, DELTA))
    started = time.process_time()
    account = account_of(Ledger(ledger.path))
    assert time.process_time() - started < 10
    assert len(account["runs"]) == 200
    assert account["epsilon_counted"] == epsilon(plans * 40, DELTA)
