"""What is said of the runs in a folder: each by itself, and those on the same images together."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dpvision
from dpvision.api import comparing, run_rows
from dpvision.api.comparing import SameData
from dpvision.api.run_chart import write_chart
from dpvision.api.run_rows import RunRow
from dpvision.images import Images
from dpvision.privacy import Account, Event, InputError, Ledger, default_ledger_path, epsilon
from dpvision.runs import RunDirectory

STEPS = 4
LINEAR = {"network": "linear", "steps": STEPS, "expected_batch_size": 40, "learning_rate": 0.5}


def train(images: Images, out: Path, **options: Any) -> Any:
    given = {"epsilon": 3.0, "method": "dp-sgd", "config": LINEAR, **options}
    return dpvision.train(images, out=out, test=like(images), **given)


def like(images: Images) -> Images:
    """Other images that look the same."""
    return replace(images, pixels=images.pixels ^ 1)


def by_name(folder: Path) -> dict[str, RunRow]:
    return {row.name: row for row in dpvision.runs_in(folder).rows}


def test_a_finished_run_is_as_its_card_says(images: Images, tmp_path: Path) -> None:
    result = train(images, tmp_path / "deep" / "below" / "run")
    row = by_name(tmp_path)["deep/below/run"]
    assert (row.state, row.method, row.is_private, row.cost) == ("finished", "dp-sgd", True, "paid")
    assert (row.epsilon, row.target_epsilon, row.delta) == (result.epsilon, 3.0, result.delta)
    assert (row.neighboring_relation, row.unit) == ("add_or_remove_one", "image")
    test = result.test_accuracy
    assert (row.test_accuracy, row.test_interval_95, row.test_total) == (test.value, test.interval, 120)
    assert row.started == json.loads((Path(row.path) / "config.json").read_text())["started"]
    assert row.seconds is not None
    assert row.images is None
    report = result.test_report
    assert row.figure("auc") == (report.auc.value, *report.auc.interval)
    assert row.figure("accuracy") == (test.value, *test.interval)


def test_a_release_alone_counts_and_does_not_know_its_ledger(images: Images, tmp_path: Path) -> None:
    shutil.copytree(train(images, tmp_path / "run").release, tmp_path / "elsewhere" / "published")
    found = dpvision.runs_in(tmp_path / "elsewhere")
    (row,) = found.rows
    assert (row.name, row.state, row.cost) == ("published", "finished", "unknown")
    assert row.test_total == 120
    assert found.same_data == ()
    assert found.notes == (
        "1 release is here without its run: on which images, and what they cost together with others, "
        "cannot be told.",
    )
    (itself,) = dpvision.runs_in(tmp_path / "elsewhere" / "published").rows
    assert itself.name == "."
    (tmp_path / "elsewhere" / "published" / "guarantee.json").unlink()  # as older releases are
    assert dpvision.runs_in(tmp_path / "elsewhere").rows == found.rows


@pytest.mark.parametrize(("at", "step"), [(1, 1), (3, 3)])
def test_an_interrupted_run_says_at_which_step(images: Images, tmp_path: Path, at: int, step: int) -> None:
    def progress(what: str, done: int, total: int, account: Account | None = None) -> None:
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "run", progress=progress)
    found = dpvision.runs_in(tmp_path)
    assert "with all that is planned by 1 not finished" in found.notes[0]
    (row,) = found.rows
    assert (row.state, row.step, row.steps, row.epsilon) == ("interrupted", step, STEPS, None)
    assert (row.target_epsilon, row.cost, row.has_learned) == (3.0, "paid", False)
    with RunDirectory.open(tmp_path / "run").locked():
        (row,) = dpvision.runs_in(tmp_path).rows
        assert row.state == "running"
    dpvision.resume(tmp_path / "run", data=images, test=like(images))
    (row,) = dpvision.runs_in(tmp_path).rows
    assert (row.state, row.step) == ("finished", None)


def test_a_run_whose_release_is_missing_has_learned(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "release")
    (row,) = dpvision.runs_in(tmp_path).rows
    assert (row.state, row.has_learned, row.step) == ("interrupted", True, None)


DAMAGE = {
    "config.json": "{",
    "private/run.json": "[]",
    "release/card.json": '{"epsilon": "much"}',
    "release/card.json ": "",
}


@pytest.mark.parametrize("file", DAMAGE)
def test_a_damaged_run_stands_among_good_ones(images: Images, tmp_path: Path, file: str) -> None:
    train(images, tmp_path / "good")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    (tmp_path / "bad" / file.strip()).write_text(DAMAGE[file])
    found = by_name(tmp_path)
    assert found["good"].state == "finished"
    assert (found["bad"].state, found["bad"].cost) == ("damaged", "unknown")
    assert str(tmp_path / "bad") in str(found["bad"].problem)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "much", None, [1]])
def test_a_strangers_card_may_say_anything(images: Images, tmp_path: Path, value: object) -> None:
    release = train(images, tmp_path / "run").release
    card = json.loads((release / "card.json").read_text())
    for name in ("epsilon", "test"):
        (release / "card.json").write_text(json.dumps({**card, name: value}))
        (row,) = dpvision.runs_in(release).rows
        assert row.state == "damaged" or (name, value) == ("test", None)


def test_a_run_without_its_private_record_is_a_release(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run")
    (tmp_path / "run" / "private" / "run.json").unlink()
    (row,) = dpvision.runs_in(tmp_path).rows
    assert (row.name, row.state, row.cost) == ("run", "finished", "unknown")
    shutil.rmtree(tmp_path / "run" / "release")
    (row,) = dpvision.runs_in(tmp_path).rows
    assert row.state == "damaged"


def test_what_is_no_run_is_passed_over(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / ".run.partial")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").touch()
    assert list(by_name(tmp_path)) == ["run"]
    with pytest.raises(InputError, match="is no folder"):
        dpvision.runs_in(tmp_path / "notes.txt")


def test_a_run_with_a_fixed_seed_is_unpaid(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run", seed=1)
    found = dpvision.runs_in(tmp_path)
    (row,) = found.rows
    assert (row.is_private, row.cost) == (False, "unpaid")
    assert "fixed seed" in row.cost_because
    assert "cannot be told: not private: the noise came from a fixed seed" in found.notes[0]


def test_a_run_whose_ledger_lacks_it_is_unpaid(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run")
    ledger = default_ledger_path(images.digest)
    content = ledger.read_bytes()
    ledger.unlink()
    (row,) = dpvision.runs_in(tmp_path).rows
    assert (row.cost, row.cost_because) == ("unpaid", f"there is no ledger {ledger}")
    ledger.write_bytes(content.splitlines(keepends=True)[0])
    (row,) = dpvision.runs_in(tmp_path).rows
    assert (row.cost, row.cost_because) == ("unpaid", f"the ledger {ledger} does not have it")
    ledger.write_bytes(content.replace(b"spend", b"spent"))
    (row,) = dpvision.runs_in(tmp_path).rows
    assert row.cost == "unknown"
    assert "was changed or damaged" in row.cost_because


def test_images_that_are_released_are_counted(images: Images, tmp_path: Path) -> None:
    made = dpvision.synthesize(images, epsilon=3, out=tmp_path / "made", count=7)
    dpvision.synthesize_from(made.release, out=tmp_path / "more", count=9)
    found = by_name(tmp_path)
    assert (found["made"].images, found["made"].cost, found["made"].test_accuracy) == (7, "paid", None)
    assert (found["more"].images, found["more"].cost) == (9, "free")
    with pytest.raises(InputError, match="nothing to draw"):
        dpvision.runs_in(tmp_path).chart()


def events_of(images: Images) -> list[Event]:
    return [
        event for events in Ledger(default_ledger_path(images.digest)).counted().values() for event in events
    ]


def test_runs_on_the_same_images_are_composed(images: Images, tmp_path: Path) -> None:
    for name, spent in (("runs/one", 1.0), ("runs/two", 2.0), ("other", 1.5)):
        train(images, tmp_path / name, epsilon=spent)
    train(replace(images, pixels=images.pixels // 2), tmp_path / "runs" / "of another data set")
    train(images, tmp_path / "runs" / "not private", seed=3)
    found = dpvision.runs_in(tmp_path / "runs")
    same = {len(one.runs): one for one in found.same_data}
    assert same.keys() == {1, 3}
    together = same[3]
    assert together.paid == 2
    assert together.others == 2  # that in another folder, and that with a seed
    assert together.epsilon is not None
    assert together.epsilon_with_others is not None
    assert 2 < together.epsilon < 3 < together.epsilon_with_others
    at = Ledger(default_ledger_path(images.digest)).stated_at
    assert together.epsilon_with_others == epsilon(events_of(images), at.delta, at.neighboring_relation)
    assert "3 runs are on the same private images: the 2 paid together cost ε" in together.in_words()
    assert "`dpvision tune` pays for a choice" in together.in_words()
    assert "`dpvision tune`" not in same[1].in_words()


def test_rows_are_sorted(images: Images, tmp_path: Path) -> None:
    for name, spent in (("run10", 1.0), ("run9", 0.5)):
        train(images, tmp_path / name, epsilon=spent)
    orders = {
        sort: [row.name for row in dpvision.runs_in(tmp_path, sort=sort).rows]
        for sort in ("name", "epsilon", "method", "started")
    }
    assert orders["name"] == orders["epsilon"] == orders["method"] == ["run9", "run10"]
    best = dpvision.runs_in(tmp_path, sort="accuracy").rows
    assert [row.test_accuracy for row in best] == sorted((row.test_accuracy for row in best), reverse=True)
    assert {*orders["started"]} == {"run9", "run10"}
    by_accuracy = run_rows._KEYS["accuracy"]  # of a run without one, behind all others
    assert by_accuracy(replace(best[-1], test_accuracy=None)) > by_accuracy(
        replace(best[-1], test_accuracy=0.0)
    )
    with pytest.raises(InputError, match="cannot be sorted by 'colour'"):
        dpvision.runs_in(tmp_path, sort="colour")


def test_all_of_it_is_json(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run")
    fields = json.loads(json.dumps(dpvision.runs_in(tmp_path).to_json()))
    assert fields["runs"][0]["name"] == "run"
    assert fields["same_data"][0]["runs"] == ["run"]
    assert fields["notes"]


def test_a_chart_is_written_as_its_name_says(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run")
    train(images, tmp_path / "replaced", neighboring_relation="replace_one")
    train(images, tmp_path / "seeded", seed=1)
    found = dpvision.runs_in(tmp_path)
    write_chart(found, tmp_path / "chart.svg")
    text = (tmp_path / "chart.svg").read_text()
    for said in (
        "dp-sgd, replace_one",
        "dp-sgd, add_or_remove_one",
        "hollow: NOT PRIVATE",
        "n = 120",
        "unit: image",
    ):
        assert said in text
    write_chart(found, tmp_path / "auc.svg", "auc")
    assert "AUC, n = 120" in (tmp_path / "auc.svg").read_text()
    write_chart(found, tmp_path / "chart.PNG")
    assert (tmp_path / "chart.PNG").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"must end in \.svg or \.png"):
        write_chart(found, tmp_path / "chart.pdf")


def test_what_nothing_bounds_is_said(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "elsewhere/c"):
        train(images, tmp_path / name)
    monkeypatch.setattr(comparing, "epsilon", lambda events, *at: 2.0 if len(events) < 3 else float("inf"))
    (row_a, row_b, _) = dpvision.runs_in(tmp_path).rows
    together = comparing._cost_together([row_a, row_b])
    assert (together.epsilon, together.epsilon_with_others) == (2.0, None)
    assert "with 1 more in the ledger nothing bounds it" in together.in_words()
    (everything,) = dpvision.runs_in(tmp_path).same_data
    assert (everything.epsilon, everything.because) == (None, "nothing bounds it")


def test_one_run_is_not_called_many() -> None:
    one = SameData("photos", ("run",), 1, 0, 0.5, 1e-5, "add_or_remove_one")
    expected = "1 run is on private images (photos) that no other here is on: it cost ε 0.5 at delta 1e-05"
    assert one.in_words() == f"{expected} (add_or_remove_one)."
