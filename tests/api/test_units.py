"""Runs on units: what is counted, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dpvision
from dpvision.api.ledgers import account_of
from dpvision.cli.ledgers import account_text
from dpvision.images import Images
from dpvision.privacy import BudgetExceeded, InputError, Ledger, default_ledger_path

CONFIG = {"network": "linear", "steps": 4, "expected_batch_size": 10, "learning_rate": 0.5}


@pytest.fixture
def of_units(images: Images) -> Images:
    """The images, as those of fifty units."""
    found = images.with_units(torch.arange(len(images)) % 50)
    assert isinstance(found, Images)
    return found


def test_units_are_counted_and_not_images(of_units: Images, tmp_path: Path) -> None:
    result = dpvision.train(
        of_units,
        method="dp-sgd",
        epsilon=3.0,
        config=CONFIG,
        out=tmp_path / "run",
        ledger=tmp_path / "ledger",
    )
    card = json.loads((result.release / "card.json").read_text())
    assert card["num_examples"] == 50
    assert card["mechanisms"][0]["sample_rate"] == 10 / 50
    assert result.delta == 1e-3  # at most 1/(10 · 50)
    assert Ledger(tmp_path / "ledger").num_examples == 50


@pytest.mark.parametrize("relation", ["add_or_remove_one", "replace_one"])
def test_all_that_is_said_is_said_of_units(relation: str, of_units: Images, tmp_path: Path) -> None:
    given = {"epsilon": 3.0, "config": CONFIG, "neighboring_relation": relation}
    release = dpvision.train(of_units, **given, out=tmp_path / "run").release  # type: ignore[arg-type]
    text = (release / "card.md").read_text() + (release / "guarantee.json").read_text()
    for said in ("of one unit: ", "every unit enters", "number of units: 50", "one unit moves a sum"):
        assert said in text
    for said in ("one image", "every image enters", "number of training images", "training images N"):
        assert said not in text


def test_of_images_it_is_said_what_a_person_with_several_has(images: Images, tmp_path: Path) -> None:
    release = dpvision.train(images, epsilon=0.5, config=CONFIG, out=tmp_path / "run").release
    text, card = (release / "card.md").read_text(), json.loads((release / "card.json").read_text())
    two, five, ten = card["groups"]
    assert 2 * card["epsilon"] <= two["epsilon"] < five["epsilon"]
    assert (two["images"], five["images"], ten["images"]) == (2, 5, 10)
    assert "One image is protected, not one person" in text
    assert f"| 2 | {two['epsilon']:.3g} |" in text
    release = dpvision.train(images, epsilon=30, config=CONFIG, out=tmp_path / "other").release
    assert "| 10 | no useful bound |" in (release / "card.md").read_text()


def test_delta_is_held_against_units(of_units: Images, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="delta"):
        dpvision.train(
            of_units, epsilon=3.0, delta=1 / 50, num_examples=10, config=CONFIG, out=tmp_path / "run"
        )


def test_a_unit_in_both_splits_is_refused(of_units: Images, tmp_path: Path) -> None:
    test = replace(of_units, pixels=of_units.pixels ^ 1).subset(range(60, 70))
    with pytest.raises(InputError, match="10 of the 10 units of the test images"):
        dpvision.train(of_units, epsilon=3.0, config=CONFIG, out=tmp_path / "run", test=test)
    assert not (tmp_path / "run").exists()


def test_views_of_single_images_alone_are_refused_for_units(of_units: Images, tmp_path: Path) -> None:
    from dpvision.testing import training_run

    class OfOne:
        views_per_example = 1

        def __call__(
            self, pixels: torch.Tensor, targets: torch.Tensor, draws: object
        ) -> tuple[torch.Tensor, ...]:
            return pixels[:, None].float(), targets[:, None]

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(len(of_units.class_names)))
    network(torch.zeros(1, *of_units.shape))
    run = training_run(network, num_examples=50, policy=OfOne())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="view policy OfOne makes views of single images"):
        run(of_units, tmp_path)


def test_a_run_on_units_goes_on_where_it_was(of_units: Images, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int, account: object = None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    given = {"method": "dp-sgd", "epsilon": 3.0, "config": CONFIG, "seed": 1}
    whole = dpvision.train(of_units, **given, out=tmp_path / "whole", ledger=tmp_path / "one")  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        dpvision.train(of_units, **given, out=tmp_path / "run", ledger=tmp_path / "two", progress=stop)  # type: ignore[arg-type]
    other = of_units.with_units(torch.arange(len(of_units)) % 40)
    with pytest.raises(InputError, match="have changed"):
        dpvision.resume(tmp_path / "run", data=other)
    resumed = dpvision.resume(tmp_path / "run", data=of_units)
    assert all(
        one.equal(other)
        for one, other in zip(
            whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True
        )
    )


def test_a_limit_holds_for_a_patient_over_data_sets(images: Images, tmp_path: Path) -> None:
    """The second data set has other images of some of the same patients."""
    patients = [f"patient {number % 10}" for number in range(60)]
    first = images.subset(range(60)).with_units(patients)
    second = images.subset(range(60, 120)).with_units([*patients[:5], *range(55)])
    ledger = Ledger.for_dataset(default_ledger_path(first.digest), first.digest, 10, "unit")
    ledger.set_limit(dpvision.Budget(1.3, 1e-3))
    given = {"method": "dp-sgd", "epsilon": 1.0, "delta": 1e-3, "config": CONFIG}
    dpvision.train(first, **given, out=tmp_path / "first")  # type: ignore[arg-type]
    forecast = dpvision.plan(second, **given)  # type: ignore[arg-type]
    assert (forecast.allowed, forecast.images_after, forecast.after_of) == (False, 5, "unit")
    with pytest.raises(BudgetExceeded, match="bring 5 of the units"):
        dpvision.train(second, **given, out=tmp_path / "second")  # type: ignore[arg-type]
    assert not (tmp_path / "second").exists()
    others = second.subset(range(5, 60))
    assert dpvision.plan(others, **given).allowed  # type: ignore[arg-type]
    given["epsilon"] = forecast.epsilon_fits
    dpvision.train(second, **given, out=tmp_path / "less")  # type: ignore[arg-type]


def test_runs_of_the_other_kind_are_told_of(
    images: Images, of_units: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"method": "dp-sgd", "epsilon": 0.5, "config": CONFIG}
    dpvision.train(images, **given, out=tmp_path / "images")  # type: ignore[arg-type]
    assert "earlier runs" not in caplog.text
    dpvision.train(of_units, **given, out=tmp_path / "units")  # type: ignore[arg-type]
    told = f"earlier runs have learned from {len(images)} of the {len(images)} images"
    assert told in caplog.text
    assert "those protect images, and this run protects units" in caplog.text
    dpvision.train(images, **given, out=tmp_path / "again")  # type: ignore[arg-type]
    assert "those protect units of several images" in caplog.text


def test_the_ledger_is_shown_in_units(of_units: Images, tmp_path: Path) -> None:
    dpvision.train(of_units, method="dp-sgd", epsilon=0.5, config=CONFIG, out=tmp_path / "run")
    ledger = Ledger(default_ledger_path(of_units.digest))
    text = account_text(account_of(ledger, of_units))
    assert text == account_text(account_of(ledger))
    assert "50 units" in text
    assert "worst unit" in text
    assert "worst image" not in text
