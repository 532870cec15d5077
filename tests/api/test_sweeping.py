"""dpvision.sweep: each run that it is to have, once, whatever happens on the way; paid, or said not to be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import dpvision
from dpvision.api import Sweep, sweeping
from dpvision.images import Images
from dpvision.privacy import Account, Budget, InputError, Ledger, default_ledger_path
from dpvision.privacy.image_index import ImageIndex, default_index_folder
from dpvision.runs import Progress

CONFIG = {
    "dp-sgd": {"network": "linear", "steps": 4, "expected_batch_size": 40, "learning_rate": 0.5},
    "dp-ridge": {"encoder": "pixels"},
}
RUNS = [f"{method}-eps{epsilon}-run{run}" for run in (1, 2) for epsilon in ("0.5", "3") for method in CONFIG]


def sweep(images: Images, out: Path, **options: Any) -> Sweep:
    test = replace(images, pixels=images.pixels ^ 1)
    given = {"methods": list(CONFIG), "epsilons": [0.5, 3], "seeds": 2, "config": CONFIG, "test": test}
    return dpvision.sweep(images, out=out, **{**given, **options})


def interrupt(run: str, at: int) -> Progress:
    """Interrupt a run of a sweep at a step."""
    current = ""

    def progress(what: str, done: int, total: int, account: Account | None = None) -> None:
        nonlocal current
        if what == sweeping.RUNS:
            assert total in (4, 8)
            current = RUNS[done]
        elif current == run and done == at:
            raise KeyboardInterrupt

    return progress


def seals(folder: Path) -> dict[str, str]:
    return {run.parent.parent.name: run.read_text() for run in sorted(folder.glob("*/private/run.json"))}


def paid(images: Images) -> list[str]:
    return [Path(run["folder"]).name for run in Ledger(default_ledger_path(images.digest)).summary()["runs"]]


def test_every_combination_is_a_run(images: Images, tmp_path: Path) -> None:
    done = sweep(images, tmp_path / "sweep")
    assert {row.name for row in done.runs.rows} == set(RUNS)
    assert all((row.state, row.cost, row.is_private) == ("finished", "paid", True) for row in done.runs.rows)
    assert all(f"eps{row.target_epsilon:g}-" in row.name for row in done.runs.rows)
    assert done.failed == {}
    assert paid(images) == RUNS, "in the order in which an interrupted sweep compares most"
    (together,) = done.runs.same_data
    assert (together.paid, together.others) == (len(RUNS), 0)
    assert done.chart == tmp_path / "sweep" / "sweep.svg"
    assert b"<svg" in done.chart.read_bytes()
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [run["name"] for run in record["runs"]] == [row.name for row in done.runs.rows]
    assert record["made_with"]["settings"] == CONFIG
    assert not record["made_with"]["unpaid"]


@pytest.mark.parametrize(("run", "at"), [("dp-sgd-eps3-run1", 2), ("dp-sgd-eps0.5-run1", 0)])
def test_the_same_call_goes_on_after_an_interruption(
    images: Images, tmp_path: Path, run: str, at: int
) -> None:
    out = tmp_path / "sweep"
    with pytest.raises(KeyboardInterrupt):
        sweep(images, out, seeds=1, progress=interrupt(run, at))
    before = seals(out)
    assert list(before)[-1:] == [run] or at == 0
    done = sweep(images, out, seeds=1)
    assert {row.name: row.state for row in done.runs.rows} == dict.fromkeys(RUNS[:4], "finished")
    after = seals(out)
    assert {name: after[name] for name in before} == before, "none is made a second time"
    assert sorted(paid(images)) == sorted(RUNS[:4])
    spent = Ledger(default_ledger_path(images.digest)).summary()["runs"]
    assert all(one["state"] == "complete" for one in spent)


def test_more_is_added_to_a_sweep(images: Images, tmp_path: Path) -> None:
    alone = {"config": {"dp-ridge": CONFIG["dp-ridge"]}, "methods": ["dp-ridge"]}
    sweep(images, tmp_path / "sweep", seeds=1, epsilons=[3], **alone)
    before = seals(tmp_path / "sweep")
    done = sweep(images, tmp_path / "sweep", seeds=1, epsilons=[0.5, 3])
    assert {row.name for row in done.runs.rows} == set(RUNS[:4])
    assert before.items() <= seals(tmp_path / "sweep").items()


def test_other_runs_are_not_put_beside_those_of_a_sweep(images: Images, tmp_path: Path) -> None:
    sweep(images, tmp_path / "sweep", seeds=1, epsilons=[3], methods=["dp-ridge"])
    for options, name in (
        ({"delta": 1e-6}, "delta"),
        ({"unpaid": True}, "unpaid"),
        ({"config": {}}, "set of settings of dp-ridge"),
    ):
        with pytest.raises(InputError, match=f"of a sweep with another {name}"):
            sweep(images, tmp_path / "sweep", seeds=1, epsilons=[3], methods=["dp-ridge"], **options)


def test_a_run_that_fails_does_not_stop_the_others(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = sweeping._work

    def fail(job: sweeping.Job, *args: Any) -> Any:
        if job.options.method == "dp-sgd" and job.options.epsilon == 3:
            raise RuntimeError("out of memory")
        return work(job, *args)

    monkeypatch.setattr(sweeping, "_work", fail)
    done = sweep(images, tmp_path / "sweep", seeds=1)
    assert done.failed == {"dp-sgd-eps3-run1": "RuntimeError: out of memory"}
    assert {row.name for row in done.runs.rows} == set(RUNS[:4]) - done.failed.keys()
    record = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert record["failed"] == done.failed
    monkeypatch.undo()
    assert sweep(images, tmp_path / "sweep", seeds=1).failed == {}


def test_a_damaged_run_is_reported_and_the_others_go_on(images: Images, tmp_path: Path) -> None:
    sweep(images, tmp_path / "sweep", seeds=1, epsilons=[3])
    (tmp_path / "sweep" / "dp-sgd-eps3-run1" / "config.json").write_text("{}")
    done = sweep(images, tmp_path / "sweep", seeds=2, epsilons=[3])
    assert list(done.failed) == ["dp-sgd-eps3-run1"]
    states = {row.name: row.state for row in done.runs.rows}
    assert states.pop("dp-sgd-eps3-run1") == "damaged"
    assert states == dict.fromkeys(
        ("dp-ridge-eps3-run1", "dp-ridge-eps3-run2", "dp-sgd-eps3-run2"), "finished"
    )


def test_the_owners_limit_holds_and_is_named(images: Images, tmp_path: Path) -> None:
    ledger = Ledger.for_dataset(default_ledger_path(images.digest), images.digest, len(images))
    ledger.set_limit(Budget(3.2, 1e-4))
    done = sweep(images, tmp_path / "sweep", epsilons=[3, 0.1], methods=["dp-ridge"], seeds=2)
    assert list(done.failed) == ["dp-ridge-eps3-run2"]
    assert "over its owner's limit of 3.2" in done.failed["dp-ridge-eps3-run2"]
    assert not (tmp_path / "sweep" / "dp-ridge-eps3-run2").exists()
    assert ledger.summary()["epsilon_spent"] <= 3.2


def test_unpaid_runs_are_in_no_account_and_say_so(images: Images, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(images, tmp_path / "sweep", unpaid=True, progress=interrupt("dp-sgd-eps3-run1", 2))
    done = sweep(images, tmp_path / "sweep", unpaid=True)
    assert not default_ledger_path(images.digest).exists()
    assert not ImageIndex(default_index_folder()).exists
    assert {row.cost for row in done.runs.rows} == {"unpaid"}
    assert done.runs.same_data == ()
    assert done.runs.notes[0].startswith("8 runs are unpaid on images that were said to be public")
    assert len(Ledger(tmp_path / "sweep" / "unpaid.jsonl").counted()) == len(RUNS)
    for row in done.runs.rows:
        release = Path(row.path) / "release"
        for file in ("card.json", "card.md", "guarantee.json"):
            assert "they were said to be public (unpaid)" in (release / file).read_text()
        assert dpvision.runs_in(release).rows[0].cost == "unpaid"
        assert dpvision.verify(release).holds
    card = release / "card.json"
    card.write_text(
        card.read_text().replace("public (unpaid)", "public (`sweep --unpaid`)")
    )  # as it once was
    assert dpvision.runs_in(release).rows[0].cost == "unpaid"
    assert done.chart is not None
    assert "Of these runs 8 unpaid" in done.chart.read_text()


def test_no_run_is_unpaid_on_images_that_are_private_here(images: Images, tmp_path: Path) -> None:
    """By the whole data set's ledger, and by some of the images, that were part of another."""
    some = Images(images.pixels[:80], images.labels[:80], images.class_names, "some of them")
    dpvision.train(some, epsilon=1, out=tmp_path / "paid", method="dp-ridge", config=CONFIG["dp-ridge"])
    for private, problem in ((some, "is a private data set"), (images, "80 of the 120 images")):
        done = sweep(private, tmp_path / problem, unpaid=True, seeds=1, epsilons=[3])
        assert len(done.failed) == 2
        assert all(f"{problem}" in why and "leave out unpaid" in why for why in done.failed.values())
        assert done.runs.rows == ()


def test_an_unpaid_run_does_not_go_on_once_its_images_are_private(images: Images, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(images, tmp_path / "sweep", unpaid=True, progress=interrupt("dp-sgd-eps0.5-run1", 2))
    dpvision.train(images, epsilon=1, out=tmp_path / "paid", method="dp-ridge", config=CONFIG["dp-ridge"])
    done = sweep(images, tmp_path / "sweep", unpaid=True)
    assert len(done.failed) == len(RUNS)
    assert len(Ledger(tmp_path / "sweep" / "unpaid.jsonl").counted()) == 1


MISTAKES: dict[str, dict[str, Any]] = {
    "methods must be one or more values, all different": {"methods": ["dp-sgd", "dp-sgd"]},
    "epsilons must be one or more values, all different": {"epsilons": []},
    "both runs would be dp-sgd-eps1-run1": {"epsilons": [1, 1 + 1e-9]},
    "seeds must be a whole number of at least 1": {"seeds": 0},
    "there is no option 'seed' of a sweep": {"seed": 1},
    "there is no method 'magic'": {"methods": ["magic"]},
    "there is no method 'dp-moments' that makes a classifier": {"methods": ["dp-moments"], "config": {}},
    "dp-ridge: there is no setting 'steps'": {"config": {"steps": 4}},
    "epsilon must be": {"epsilons": [1, "two"]},
    "leave out ledger=": {"unpaid": True, "ledger": "a.jsonl"},
    "there is no option 'colour'": {"colour": "red"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_told_before_the_first_run(images: Images, tmp_path: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(images, tmp_path / "sweep", **MISTAKES[message])
    assert not (tmp_path / "sweep").exists()
    assert not default_ledger_path(images.digest).exists()


def test_a_folder_with_something_else_is_left_alone(images: Images, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="is not empty"):
        sweep(images, tmp_path)


def test_several_processes_are_refused(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="in one process"):
        sweep(images, tmp_path / "sweep")


def test_settings_may_be_for_one_method_alone(images: Images, tmp_path: Path) -> None:
    config = {**CONFIG, "dp-sgd": {**CONFIG["dp-sgd"], "steps": 3}}
    done = sweep(images, tmp_path / "sweep", config=config, seeds=1, epsilons=[3])
    steps = {
        row.method: json.loads((Path(row.path) / "config.json").read_text())["config"].get("steps")
        for row in done.runs.rows
    }
    assert steps == {"dp-sgd": 3, "dp-ridge": None}


def test_without_test_images_there_is_no_chart(images: Images, tmp_path: Path) -> None:
    done = sweep(images, tmp_path / "sweep", test=None, seeds=1, epsilons=[3], methods=["dp-ridge"])
    assert done.chart is None
    assert not (tmp_path / "sweep" / "sweep.svg").exists()
    assert done.to_json()["chart"] is None


def test_images_of_people_are_not_unpaid(tmp_path: Path) -> None:
    """The same people may have other images, which are private: what these cost is in no account."""
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = ["path,label,patient"]
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
        rows.append(f"{number}.png,{'ab'[number % 2]},p{number // 3}")
    (photos / "table.csv").write_text("\n".join(rows))
    made = dpvision.sweep(
        photos / "table.csv",
        methods=["dp-ridge"],
        epsilons=[1],
        seeds=1,
        out=tmp_path / "sweep",
        unpaid=True,
        config={"encoder": "pixels"},
    )
    (problem,) = made.failed.values()
    assert "leave out unpaid" in problem
    assert "say unit" in problem
