"""docs/guide/own-loop.md: the parts that train is made of, in a loop of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import dpvision
from checks.doc_blocks import DOCS, blocks
from dpvision.cli.main import app
from dpvision.privacy import (
    Account,
    Budget,
    BudgetExceeded,
    GaussianSumMechanism,
    InputError,
    Ledger,
    PoissonSampler,
    SecureRandom,
    SeededRandom,
    default_ledger_path,
)

LOOP, CHECK, LIGHTNING = (block.text for block in blocks(DOCS / "guide" / "own-loop.md", "python"))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's first block has defined and done."""
    found: dict[str, Any] = {"__name__": "theirs"}
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("DPVISION_HOME", str(home))
        exec(LOOP, found)
        found["ledger"] = Ledger(default_ledger_path(found["images"].digest))
    return found


def account_of(mechanism: GaussianSumMechanism, releases: int) -> Account:
    account = Account(Budget(1e6, 1e-5), None, "a test", [mechanism.cost(releases)])
    account.open()
    return account


def test_the_loop_is_about_fifteen_lines() -> None:
    body = LOOP[LOOP.index("def learn") :]
    lines = [line for line in body.splitlines() if line and not line.startswith(("def ", "print"))]
    assert len(lines) <= 18


def test_it_learns(names: dict[str, Any]) -> None:
    test = dpvision.open_images("bundled:digits", "test")
    found = names["model"](test.take(torch.arange(len(test))).float() / 255).argmax(dim=1)
    assert (found == test.labels).double().mean() > 0.75


def test_its_epsilon_is_that_of_the_command(names: dict[str, Any]) -> None:
    mechanism, steps = names["mechanism"], names["steps"]
    arguments = ["epsilon", "--noise-multiplier", repr(mechanism.noise_multiplier), "--steps", str(steps)]
    arguments += ["--sample-rate", repr(mechanism.sampler.sample_rate), "--delta", "1e-5", "--json"]
    said = CliRunner().invoke(app, arguments)
    assert json.loads(said.stdout.splitlines()[-1])["epsilon"] == names["account"].epsilon_spent()
    assert 1.98 <= names["account"].epsilon_spent() <= 2


def test_its_ledger_is_the_one_of_all_runs_on_the_images(names: dict[str, Any]) -> None:
    summary = names["ledger"].summary()
    assert [run["run"] for run in summary["runs"]] == ["own-loop"]
    assert summary["runs"][0]["state"] == "complete"
    assert summary["runs"][0]["method"] == "own loop"
    assert summary["epsilon_spent"] > 0


class Watched(SecureRandom):
    """A source that looks into the ledger whenever noise is drawn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.spent = path, list[int]()

    def add_normal(self, sums: torch.Tensor, deviation: float) -> torch.Tensor:
        written = [json.loads(line)["kind"] for line in self.path.read_text().splitlines()]
        self.spent.append(written.count("spend"))
        return super().add_normal(sums, deviation)


def test_the_event_is_on_disk_before_the_noise_is_drawn(names: dict[str, Any]) -> None:
    images, mechanism = names["images"], names["mechanism"]
    account = dpvision.open_account(images, names["budget"], [mechanism.cost(3)], run="watched")
    random = Watched(default_ledger_path(images.digest))
    names["learn"](names["model"], images, mechanism, account, random)
    assert random.spent == [1, 1, 2, 2, 3, 3]  # weights and bias, of each step


def test_an_empty_batch_is_a_step_of_noise_alone(names: dict[str, Any]) -> None:
    images = names["images"]
    mechanism = GaussianSumMechanism(2.0, 1.0, PoissonSampler(len(images), sample_rate=1e-9))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    account = account_of(mechanism, 1)
    names["learn"](model, images, mechanism, account, SeededRandom(0))
    assert account.left(mechanism.event) == 0
    expected = mechanism.sampler.expected_batch_size
    moved = torch.cat([(before[name] - after).flatten() for name, after in model.state_dict().items()])
    assert float(moved.std()) == pytest.approx(2.0 * 2.0 / expected, rel=0.15)  # learning rate · σC / qN


def test_what_is_frozen_stays(names: dict[str, Any]) -> None:
    images = names["images"]
    mechanism = GaussianSumMechanism(1.0, 1.0, PoissonSampler(len(images), sample_rate=0.01))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names["learn"](model, images, mechanism, account_of(mechanism, 1), SeededRandom(0))
    assert torch.equal(model[1].bias, before["1.bias"])
    assert not torch.equal(model[1].weight, before["1.weight"])


def test_a_loop_that_was_interrupted_goes_on_with_what_is_left(names: dict[str, Any]) -> None:
    images, mechanism, budget = names["images"], names["mechanism"], names["budget"]

    def opened() -> Account:
        return dpvision.open_account(images, budget, [mechanism.cost(4)], run="again")

    first = opened()
    mechanism.release({"sum": torch.zeros(2)}, first, SecureRandom())
    second = opened()  # as a new process would, after the first died
    assert second.left(mechanism.event) == 3
    names["learn"](names["model"], images, mechanism, second, SecureRandom())
    with pytest.raises(BudgetExceeded):
        mechanism.release({"sum": torch.zeros(2)}, second, SecureRandom())
    second.close()
    with pytest.raises(InputError, match="run again is closed in the ledger"):
        opened()


def test_the_check_of_the_page_passes_and_finds_a_division_by_the_batch(names: dict[str, Any]) -> None:
    exec(CHECK, names)
    wrong = LOOP.replace("/ sampler.expected_batch_size", "/ max(1, len(batch))")
    assert wrong != LOOP
    code = wrong[wrong.index("def learn") : wrong.index("images = ")]
    theirs = dict(names)
    exec(code, theirs)
    with pytest.raises(AssertionError):
        exec(CHECK, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget(0.1, 1e-5)}, "the plan spends epsilon 1.9"),
        ({"budget": Budget(2.0, 0.5)}, "delta 0.5 is not below 1/N"),
        ({"run": "own-loop"}, None),
    ],
)
def test_what_an_account_is_not_opened_for(
    names: dict[str, Any], options: dict[str, Any], message: str | None
) -> None:
    images = names["images"]
    given = {"budget": names["budget"], "planned": [names["mechanism"].cost(60)], "run": "new", **options}
    if message is None:
        dpvision.open_account(images, **given).close()
        message = "run own-loop is closed"
    with pytest.raises((InputError, BudgetExceeded), match=message):
        dpvision.open_account(images, **given)


def test_images_of_units_are_refused() -> None:
    images = dpvision.images_from_arrays(
        torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8), [0, 1, 0, 1], layout="NCHW", units=[0, 0, 1, 1]
    )
    with pytest.raises(InputError, match="a loop of your own protects single images"):
        dpvision.open_account(images, Budget(2.0, 1e-5), [], run="units")
    assert not default_ledger_path(images.digest).exists()


def test_it_counts_in_other_sets_of_the_same_images(names: dict[str, Any]) -> None:
    few, mechanism = names["images"].subset(range(50)), names["mechanism"]
    account = dpvision.open_account(few, names["budget"], [mechanism.cost(1)], run="few")
    mechanism.release({"sum": torch.zeros(2)}, account, SecureRandom())
    account.close()
    Ledger(default_ledger_path(few.digest)).set_limit(Budget(1.0, 1e-5))
    with pytest.raises(BudgetExceeded):
        dpvision.open_account(names["images"], names["budget"], [mechanism.cost(60)], run="all")


def test_a_place_is_no_set_of_images(names: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="an account is of images, as open_images returns them"):
        dpvision.open_account("bundled:digits", names["budget"], [], run="new")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"run": ""}, "run must be a name"),
        ({"run": "two\nlines"}, "run must be a name"),
        ({"run": None}, "run must be a name"),
        ({"run": "public demo"}, "call it otherwise"),
        ({"planned": []}, "planned must be a list of events"),
        ({"planned": [1.0]}, "planned must be a list of events"),
        ({"budget": 2.0}, "budget must be a Budget"),
    ],
)
def test_mistakes_are_told_in_a_sentence(names: dict[str, Any], wrong: dict[str, Any], message: str) -> None:
    right = {"run": "new", "planned": [names["mechanism"].cost(1)], "budget": names["budget"]}
    with pytest.raises(InputError, match=message):
        dpvision.open_account(names["images"].subset(range(40)), **{**right, **wrong})


def test_the_owners_limit_holds_for_it(names: dict[str, Any]) -> None:
    images = names["images"]
    Ledger.for_dataset(default_ledger_path(images.digest), images.digest, len(images)).set_limit(
        Budget(1.0, 1e-5)
    )
    with pytest.raises(BudgetExceeded):
        dpvision.open_account(images, names["budget"], [names["mechanism"].cost(60)], run="much")


def test_the_module_for_lightning(names: dict[str, Any]) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    found = dict(names)
    exec(LIGHTNING, found)
    assert found["account"].epsilon_spent() == names["account"].epsilon_spent()
    assert float(found["trainer"].callback_metrics["epsilon"]) == pytest.approx(
        found["account"].epsilon_spent()
    )
    test = dpvision.open_images("bundled:digits", "test")
    logits = found["network"](test.take(torch.arange(len(test))).float() / 255)
    assert (logits.argmax(dim=1) == test.labels).double().mean() > 0.75
