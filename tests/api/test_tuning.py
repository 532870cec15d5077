"""dpvision.tune: run, ledger, card and release agree, and the release tells of the best trial alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dpvision
from dpvision.api.publishing import Result
from dpvision.cli.main import run as command
from dpvision.images import Images
from dpvision.privacy import Event, InputError, Ledger, default_ledger_path
from dpvision.privacy.events import SelectionEvent
from dpvision.testing import check_guarantee
from tests.api.test_verifying import failing, rewrite

CONFIG = {"network": "linear", "expected_batch_size": 40, "precision": "float32"}
SEARCH = {"steps": [4, 8], "learning_rate": [0.1, 0.5]}


def tune(images: Images, out: Path, **options: Any) -> Result:
    given = {"epsilon": 6.0, "out": out, "config": CONFIG, "search": SEARCH, "trials": 3, **options}
    return dpvision.tune(images, **given)


def card_of(result: Result) -> dict[str, Any]:
    return dict(json.loads((result.release / "card.json").read_text()))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Result:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 2
    pixels = torch.randint(100, (120, 1, 4, 4), generator=generator) + 100 * labels[:, None, None, None]
    images = Images(pixels.to(torch.uint8), labels, ("dark", "bright"), "made up")
    return tune(images, tmp_path_factory.mktemp("tuned") / "run")


def test_the_release_tells_of_the_best_trial_alone(tuned: Result, images: Images, tmp_path: Path) -> None:
    trained = dpvision.train(
        images, epsilon=6.0, out=tmp_path / "run", config={**CONFIG, "steps": 4, "learning_rate": 0.1}
    )
    names = [{path.name for path in result.release.iterdir()} for result in (tuned, trained)]
    assert names[0] == names[1]
    card, other = card_of(tuned), card_of(trained)
    assert card.keys() - other.keys() == {"tuning"}
    assert card["tuning"].keys() == {"expected_trials", "law", "search", "score"}
    assert card["tuning"]["score"].keys() == {"images_right", "noise"}
    assert (card["tuning"]["expected_trials"], card["tuning"]["search"]) == (3.0, SEARCH)
    assert card["training_seconds"] is None, "it would tell how many trials there were"
    assert not any("training time" in one for one in card["not_covered"])
    assert card["method"] == "dp-sgd"
    assert all(card["config"][name] in values for name, values in SEARCH.items())
    (event,) = (Event.from_json(one["event"]) for one in card["events"])
    assert isinstance(event, SelectionEvent)
    assert (event.count, event.mean, len(event.trials)) == (1, 3.0, 2)
    assert 0.98 * 6 <= card["epsilon"] <= 6
    text = (tuned.release / "card.md").read_text()
    assert "3 on average" in text
    assert "As the best of\nseveral it flatters" in text
    private = tuned.release.parent / "private"
    assert not (private / "metrics.jsonl").exists()
    assert not any("key" in name for name in _names(private / "checkpoint.safetensors"))
    assert tuned.test_accuracy is None


def _names(path: Path) -> list[str]:
    from safetensors.torch import load_file

    return list(load_file(path))


def test_a_release_is_verified_and_a_changed_event_is_found(tuned: Result, tmp_path: Path) -> None:
    found = dpvision.verify(tuned.release)
    assert failing(found) == []
    assert found.epsilons["the bound on a selection"] == pytest.approx(found.epsilon, rel=5e-3)

    def less_noise(event: dict[str, Any]) -> None:
        event["trials"][0][0]["noise_multiplier"] /= 1.2

    def more_trials(event: dict[str, Any]) -> None:
        event["mean"] = 8.0

    def fewer_trials(event: dict[str, Any]) -> None:
        event["mean"] = 1.1

    def no_selection(event: dict[str, Any]) -> None:
        trial = max(event["trials"], key=lambda one: one[-1]["count"])
        event.clear()
        event.update(trial[-1])

    changes: list[tuple[Callable[[dict[str, Any]], None], str]] = [
        (less_noise, "epsilon, independently"),
        (more_trials, "epsilon, independently"),
        (fewer_trials, "epsilon, not above RDP"),
        (no_selection, "epsilon, not above RDP"),
    ]
    for change, check in changes:
        copy = Path(shutil.copytree(tuned.release, tmp_path / change.__name__))
        rewrite(copy, lambda fields, change=change: change(fields["events"][0]["event"]), card=True)
        assert check in failing(dpvision.verify(copy)), change.__name__


def test_facts_on_the_card_that_are_not_the_events_are_found(tuned: Result, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tuned.release, tmp_path / "copy"))

    def change(fields: dict[str, Any]) -> None:
        if "mechanisms" in fields:
            fields["mechanisms"][0]["expected trials"] = 2.0

    rewrite(copy, change, card=True)
    assert "card" in failing(dpvision.verify(copy))


def test_an_interrupted_tuning_is_the_same_in_the_end_and_paid_for_once(
    images: Images, tmp_path: Path
) -> None:
    said: list[str] = []

    def interrupt(what: str, done: int, total: int, account: Any = None) -> None:
        said.append(what)
        assert account is not None
        assert account.spent == account.planned
        if what.startswith("trial 2 ") and done == 2:
            raise KeyboardInterrupt

    # With seed 1 there are at least two trials.
    with pytest.raises(KeyboardInterrupt):
        tune(images, tmp_path / "run", seed=1, progress=interrupt)
    assert said[0].startswith("trial 1 of ")
    resumed = dpvision.resume(tmp_path / "run", data=images)
    (run,) = Ledger(default_ledger_path(images.digest)).summary()["runs"]
    assert not run["open"]
    assert run["epsilon_spent"] == pytest.approx(resumed.epsilon)
    assert run["method"] == "tune:dp-sgd"
    whole = tune(images, tmp_path / "whole", seed=1)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])
    assert card_of(whole)["tuning"] == card_of(resumed)["tuning"]


def test_without_its_checkpoint_an_interrupted_tuning_stays_spent(images: Images, tmp_path: Path) -> None:
    def interrupt(what: str, done: int, total: int, account: Any = None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(images, tmp_path / "run", progress=interrupt)
    (tmp_path / "run" / "private" / "checkpoint.safetensors").unlink()
    with pytest.raises(InputError, match="its budget stays spent"):
        dpvision.resume(tmp_path / "run", data=images)
    (run,) = Ledger(default_ledger_path(images.digest)).summary()["runs"]
    assert run["epsilon_spent"] > 5


def test_neighbours_differ_by_what_is_paid_for(images: Images) -> None:
    """Record and replay, of all trials: scores move by one at most, and nothing else leaves."""

    def run(given: Images, folder: Path) -> Path:
        return tune(
            given, folder / "run", num_examples=12, delta=1e-3, seed=1, ledger=folder / "ledger.jsonl",
            config={**CONFIG, "expected_batch_size": 6}, search={"steps": [3, 4]},
        ).release  # fmt: skip

    found = check_guarantee(run, images.subset(range(12)), "add_or_remove_one")
    assert all(one.releases >= 4 for one in found)


def test_plan_tells_what_tuning_costs(images: Images) -> None:
    forecast = dpvision.plan(images, epsilon=6.0, config=CONFIG, search=SEARCH, trials=3)
    assert forecast.method == "tune:dp-sgd"
    assert forecast.tuning is not None
    assert [one.settings for one in forecast.tuning.candidates] == [
        {"steps": steps, "learning_rate": rate} for steps in (4, 8) for rate in (0.1, 0.5)
    ]
    assert all(one.noise_multiplier > 1.1 * one.alone for one in forecast.tuning.candidates)
    assert not default_ledger_path(images.digest).exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"search": {"stepz": [1, 2]}}, "there is no setting 'stepz'"),
        ({"search": {"steps": [1, "two"]}}, "the setting steps takes a whole number, not 'two'"),
        ({"search": {"steps": [0, 1]}}, "steps must be at least 1"),
        ({"search": {"expected_batch_size": [40, 4000]}}, "at most the number of examples"),
        ({"trials": 1}, "the expected number of trials must be above 1"),
        ({"method": "dp-mepf", "config": None}, "there is no method 'dp-mepf' that makes a classifier"),
    ],
)
def test_bad_input_is_told_and_nothing_is_spent(
    images: Images, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    config = {name: value for name, value in CONFIG.items() if name not in options.get("search", {})}
    with pytest.raises(InputError, match=said):
        tune(images, tmp_path / "run", **{"config": config, **options})
    assert not (tmp_path / "run").exists()
    assert not default_ledger_path(images.digest).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--search is missing"),
        (["--search", "steps"], "must be of the form key=value,value,…"),
        (["--search", "steps=3"], "two or more values, all different"),
        (["--search", "steps=3,4", "--set", "steps=5"], "steps is both given and searched"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert command(["tune", "bundled:digits", "--epsilon", "1", "--out", str(out), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_a_recipe_may_say_what_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'data = "bundled:digits"\nepsilon = 3\ntrials = 2\nmethod = "dp-ridge"\n'
        '[search]\nmirror = [true, false]\n[config]\nencoder = "pixels"\n'
    )
    assert command(["plan", "--config", str(recipe), "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["settings"] for one in forecast["tuning"]["candidates"]] == [
        {"mirror": True},
        {"mirror": False},
    ]
