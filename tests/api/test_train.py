"""dpvision.train and resume: run directory, ledger and release agree, whatever happens on the way."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import dpvision
from dpvision.api import forecast
from dpvision.api.publishing import Result
from dpvision.images import Images
from dpvision.privacy import Account, Budget, InputError, Ledger, default_ledger_path
from dpvision.reports.markdown import without_charts
from dpvision.runs import Progress, RunDirectory

STEPS = 8
CONFIG = {"network": "linear", "steps": STEPS, "expected_batch_size": 40, "learning_rate": 0.5}


def train(images: Images, out: Path, **options: Any) -> Result:
    return dpvision.train(images, **{"epsilon": 3.0, "out": out, "config": CONFIG, **options})


def like(images: Images) -> Images:
    """Other images that look the same."""
    return replace(images, pixels=images.pixels ^ 1)


def ledger_of(images: Images) -> Ledger:
    return Ledger(default_ledger_path(images.digest))


def interrupt_at(step: int) -> Progress:
    def progress(what: str, done: int, total: int, account: Account | None = None) -> None:
        assert what != "training" or total == STEPS
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_a_run_from_beginning_to_end(images: Images, tmp_path: Path) -> None:
    steps = []
    test = like(images)
    result = train(
        images, tmp_path / "run", test=test, progress=lambda what, done, total, account: steps.append(done)
    )
    assert steps == list(range(STEPS + 1))
    assert 0.99 * 3 <= result.epsilon <= 3
    assert result.delta == 1e-4
    assert result.test_accuracy is not None
    assert result.test_accuracy.value > 0.8
    assert result.release == tmp_path / "run" / "release"
    assert dpvision.evaluate(tmp_path / "run", test) == result.test_report
    assert dpvision.evaluate(result.release, test) == result.test_report
    assert result.test_report is not None
    assert result.test_report.accuracy == result.test_accuracy

    (run,) = ledger_of(images).summary()["runs"]
    assert not run["open"]
    assert run["epsilon_spent"] == pytest.approx(result.epsilon)

    metrics = [json.loads(line) for line in (tmp_path / "run/private/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(STEPS))


@pytest.mark.parametrize("method", ["dp-sgd", "dp-ridge"])
def test_a_declared_number_of_examples_hides_how_many_there_are(
    images: Images, tmp_path: Path, method: str
) -> None:
    declared = len(images) + 117
    config = CONFIG if method == "dp-sgd" else {"encoder": "pixels"}
    options = {"method": method, "config": config, "num_examples": declared, "progress": interrupt_at(3)}
    with contextlib.suppress(KeyboardInterrupt):
        train(images, tmp_path / "run", **options)
    release = dpvision.resume(tmp_path / "run", data=images).release
    card = json.loads((release / "card.json").read_text())
    assert card["num_examples"] == declared
    assert card["delta"] == 1e-4
    (mechanism,) = card["mechanisms"]
    assert mechanism["sample_rate"] == (40 / declared if method == "dp-sgd" else 1)
    for path in release.glob("*.*"):
        if path.suffix == ".safetensors":
            continue
        # By itself: the digits of a digest may hold it by chance, and the places of a chart's lines.
        told = re.search(rf"\b{len(images)}\b", without_charts(path.read_text()))
        assert not told, path
    assert ledger_of(images).num_examples == len(images)


@pytest.mark.parametrize("number", [0, -3, 2.5])
def test_a_number_of_examples_must_be_one(images: Images, tmp_path: Path, number: float) -> None:
    message = "num_examples must be a whole number, "
    with pytest.raises(InputError, match=message):
        train(images, tmp_path / "run", num_examples=number)
    with pytest.raises(InputError, match=message):
        dpvision.synthesize(images, epsilon=1, out=tmp_path / "run", num_examples=number)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_delta_is_held_against_the_images_that_there_are(images: Images, tmp_path: Path) -> None:
    """Whatever N is declared to be: of so few the default would let one of them out whole."""
    for options in ({"num_examples": 3}, {"num_examples": 10 * len(images), "delta": 1.0 / len(images)}):
        with pytest.raises(InputError, match=f"is not below 1/N for the {len(images)} images there are"):
            dpvision.train(images, epsilon=2, out=tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
    assert not default_ledger_path(images.digest).exists()


def test_the_released_weights_are_the_averages(images: Images, tmp_path: Path) -> None:
    release = train(images, tmp_path / "run").release
    weights = safetensors.torch.load_file(release / "model.safetensors")
    checkpoint = safetensors.torch.load_file(tmp_path / "run/private/checkpoint.safetensors")
    averages = {
        name.removeprefix("average."): tensor
        for name, tensor in checkpoint.items()
        if name.startswith("average.")
    }
    assert averages
    assert averages.keys() == weights.keys() - {"normalize.mean", "normalize.std"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in averages.items())
    assert any(not torch.equal(checkpoint[f"model.{name}"], averages[name]) for name in averages)


def test_a_learning_rate_that_float32_cannot_have_is_refused(images: Images, tmp_path: Path) -> None:
    """It ended in an error of PyTorch's, with a step paid for. What is allowed leaves finite weights."""
    with pytest.raises(InputError, match="learning_rate must be above 0 and at most"):
        train(images, tmp_path / "run", config={**CONFIG, "learning_rate": 1e300})
    assert not (tmp_path / "run").exists()
    largest = {"learning_rate": 1e20, "max_grad_norm": 1e10, "momentum": 0.99}
    result = train(images, tmp_path / "run", config={**CONFIG, **largest})
    assert all(weight.isfinite().all() for weight in result.model.parameters())


@pytest.mark.parametrize(("rate", "diverges"), [(0.5, False), (1e3, True)])
def test_the_operator_alone_is_told_of_a_training_that_ended_worse_than_guessing(
    rate: float, diverges: bool, images: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if diverges:
        meaningless = torch.randint(2, (120,), generator=torch.Generator().manual_seed(0))
        images = replace(images, labels=meaningless)
    result = train(images, tmp_path / "run", config={**CONFIG, "learning_rate": rate}, seed=1)
    assert any("worse than guessing" in message for message in caplog.messages) == diverges
    for path in result.release.glob("card.*"):
        assert "guessing" not in path.read_text()


@pytest.mark.parametrize("tested", [False, True])
def test_the_last_average_is_released_however_bad_it_is(images: Images, tmp_path: Path, tested: bool) -> None:
    """Neither the loss on private batches nor the test accuracy chooses an earlier one."""
    meaningless = torch.randint(2, (120,), generator=torch.Generator().manual_seed(0))
    images, config = replace(images, labels=meaningless), {**CONFIG, "learning_rate": 1e3}
    release = train(
        images, tmp_path / "run", test=like(images) if tested else None, config=config, seed=1
    ).release
    lines = (tmp_path / "run/private/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["mean_loss"] for line in lines]
    assert min(losses) == losses[0] < losses[-1]  # so that there is a temptation, with nothing to learn
    released = safetensors.torch.load_file(release / "model.safetensors")
    last = safetensors.torch.load_file(tmp_path / "run/private/checkpoint.safetensors")
    for name in ("network.1.weight", "network.1.bias"):
        assert torch.equal(released[name], last[f"average.{name}"])


def test_load_gives_a_ready_module(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run")
    model = dpvision.load(tmp_path / "run")
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    pixels = images.pixels[:7]
    assert torch.equal(model(pixels), dpvision.load(tmp_path / "run" / "release")(pixels))
    assert torch.allclose(model(pixels), model(pixels / 255))
    predictions = dpvision.predict(tmp_path / "run", images)
    assert [p.class_name for p in predictions[:7]] == [
        images.class_names[index] for index in model(pixels).argmax(dim=1)
    ]
    expected = model(pixels).softmax(dim=1)
    for prediction, row in zip(predictions, expected.tolist(), strict=False):
        assert prediction.probabilities == pytest.approx(dict(zip(images.class_names, row, strict=True)))
        assert prediction.probability == max(prediction.probabilities.values()) >= 0.5


def test_an_interrupted_run_ends_as_if_it_had_not_been(images: Images, tmp_path: Path) -> None:
    whole = train(images, tmp_path / "whole", seed=1)
    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "run", seed=1, progress=interrupt_at(3))
    with pytest.raises(InputError, match="not complete; resume it"):
        dpvision.load(tmp_path / "run")
    summary = ledger_of(images).summary()
    assert [run["open"] for run in summary["runs"]] == [False, True]

    with pytest.raises(KeyboardInterrupt):
        dpvision.resume(tmp_path / "run", data=images, progress=interrupt_at(5))
    result = dpvision.resume(tmp_path / "run", data=images)
    assert result.epsilon == whole.epsilon
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, whole.model.state_dict()[name])
    assert json.loads((result.release / "card.json").read_text())["lost_steps"] == 0
    assert [run["epsilon_spent"] for run in ledger_of(images).summary()["runs"]] == [whole.epsilon] * 2


def test_a_killed_run_goes_on_and_its_lost_steps_stay_paid(images: Images, tmp_path: Path) -> None:
    safetensors.torch.save_file({"pixels": images.pixels, "labels": images.labels}, tmp_path / "data")
    script = f"""
import os, signal, sys, dpvision, safetensors.torch
from dpvision.runs import checkpoints
checkpoints.LEAST_PAUSE = 1e9  # only the first step's checkpoint is ever written
data = safetensors.torch.load_file({str(tmp_path / "data")!r})
images = dpvision.Images(data["pixels"], data["labels"], ("dark", "bright"), "made up")
def progress(what, done, total, account):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
dpvision.train(images, epsilon=3.0, out={str(tmp_path / "run")!r}, config={CONFIG!r}, progress=progress)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    summary = ledger_of(images).summary()
    assert summary["runs"][0]["open"]
    assert 0 < summary["epsilon_spent"] < summary["epsilon_counted"]

    result = dpvision.resume(tmp_path / "run", data=images)
    summary = ledger_of(images).summary()
    assert summary["epsilon_spent"] == summary["epsilon_counted"] == result.epsilon
    spends = [
        line
        for line in ledger_of(images).path.read_text().splitlines()
        if json.loads(line)["kind"] == "spend"
    ]
    assert len(spends) == STEPS  # not one more than planned
    card = json.loads((result.release / "card.json").read_text())
    assert card["lost_steps"] == 4  # steps 2 to 5
    assert card["mechanisms"][0]["count"] == STEPS


def test_only_a_seed_makes_runs_alike(images: Images, tmp_path: Path) -> None:
    def weights(name: str, seed: int | None) -> bytes:
        return (train(images, tmp_path / name, seed=seed).release / "model.safetensors").read_bytes()

    assert weights("a", 5) == weights("b", 5)
    assert len({weights("c", 6), weights("d", None), weights("e", None), weights("a2", 5)}) == 4


def test_resuming_a_complete_run_gives_its_result(images: Images, tmp_path: Path) -> None:
    first = train(images, tmp_path / "run", test=like(images))
    before = ledger_of(images).path.read_bytes()
    again = dpvision.resume(tmp_path / "run")
    assert (again.epsilon, again.test_accuracy) == (first.epsilon, first.test_accuracy)
    assert ledger_of(images).path.read_bytes() == before


def test_a_run_that_died_after_its_release_is_closed_by_resume(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Account, "close", lambda self: None)
        train(images, tmp_path / "run")
    assert ledger_of(images).summary()["runs"][0]["open"]
    dpvision.resume(tmp_path / "run")
    assert not ledger_of(images).summary()["runs"][0]["open"]


def test_resume_refuses_data_that_changed(images: Images, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "run", progress=interrupt_at(3))
    with pytest.raises(InputError, match="in memory; give them again"):
        dpvision.resume(tmp_path / "run")
    before = ledger_of(images).path.read_bytes()
    with pytest.raises(InputError, match="have changed"):
        dpvision.resume(tmp_path / "run", data=images.subset(range(119)))
    assert ledger_of(images).path.read_bytes() == before


def test_two_processes_cannot_work_on_one_run(images: Images, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "run", progress=interrupt_at(3))
    with RunDirectory.open(tmp_path / "run").locked(), pytest.raises(InputError, match="another process"):
        dpvision.resume(tmp_path / "run", data=images)


def test_the_owners_limit_is_kept(images: Images, tmp_path: Path) -> None:
    ledger = Ledger.for_dataset(default_ledger_path(images.digest), images.digest, len(images))
    ledger.set_limit(Budget(4.0, 1e-4))
    forecast = dpvision.plan(images, epsilon=3.0, config=CONFIG)
    assert (forecast.allowed, forecast.epsilon_limit) == (True, 4.0)
    train(images, tmp_path / "first")
    before = ledger.path.read_bytes()
    with pytest.raises(InputError, match="owner's limit"):
        train(images, tmp_path / "some" / "second")
    assert ledger.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_run_that_fails_before_its_first_step_never_was(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("dpvision.training.trainer.PrivateTrainer.step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            train(images, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    assert ledger_of(images).summary()["epsilon_counted"] == 0
    train(images, tmp_path / "run")


@pytest.mark.parametrize(
    ("place", "is_open"), [("dpvision.api.run.Run.keep", True), ("dpvision.runs.RunDirectory.release", False)]
)
def test_a_run_that_fails_after_it_spent_stays(
    place: str, is_open: bool, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(RuntimeError, match="disk full"):
            train(images, tmp_path / "run")
    assert ledger_of(images).summary()["runs"][0]["open"] == is_open
    assert dpvision.resume(tmp_path / "run", data=images).release.is_dir()


def test_plan_says_what_train_does_and_leaves_no_trace(images: Images, tmp_path: Path) -> None:
    plan = dpvision.plan(images, epsilon=3.0, out=tmp_path / "run", config=CONFIG, ledger=tmp_path / "ledger")
    assert isinstance(plan, forecast.Forecast)
    assert list(tmp_path.iterdir()) == []
    result = train(images, tmp_path / "run", ledger=tmp_path / "ledger")
    card = json.loads((result.release / "card.json").read_text())
    assert result.epsilon == plan.epsilon
    assert card["mechanisms"] == [
        {
            "name": card["mechanisms"][0]["name"],
            "sensitivity": plan.config.max_grad_norm,
            "noise_multiplier": plan.noise_multiplier,
            "sample_rate": plan.stages[0].sample_rate,
            "count": plan.stages[0].count,
        }
    ]
    assert (tmp_path / "ledger").is_file()
    assert plan.seconds > 0
    assert plan.memory_bytes > images.pixels.numel()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"delta": 1 / 120}, "not below 1/N"),
        ({"neighboring_relation": "equal"}, "neighboring_relation"),
        ({"method": "sgd"}, "method"),
        ({"device": "abacus"}, "device"),
        ({"device": "meta"}, "device"),
        ({"seed": 1.5}, "seed"),
        ({"size": 4}, "in memory"),
        ({"config": {"stepz": 1}}, "no setting 'stepz'"),
        ({"config": {"steps": 1.5}}, "steps takes a whole number"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"seed": 1 << 64}, "seed must be a whole number from 0"),
        ({"config": {"steps": True}}, "steps takes a whole number"),
        ({"config": {"learning_rate": "big"}}, "learning_rate takes a number"),
        ({"config": CONFIG | {"expected_batch_size": 121}}, "expected_batch_size"),
        ({"config": {"network": "resnet"}}, "no network"),
    ],
)
def test_what_cannot_be_used_is_refused_without_a_trace(
    images: Images, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(images, tmp_path / "run", **options)
    assert list(tmp_path.iterdir()) == []
    assert not default_ledger_path(images.digest).exists()
