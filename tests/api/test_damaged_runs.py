"""A run that is taken up again after its ledger, its checkpoint or its records were lost or changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import dpvision
from dpvision.api.config import RunConfig
from dpvision.api.run import Run
from dpvision.images import Images
from dpvision.networks.weights import checked_facts, safetensors_bytes
from dpvision.privacy import InputError, Ledger, default_ledger_path
from dpvision.runs import RunDirectory
from dpvision.runs.files import json_bytes


@pytest.fixture
def images(images: Images) -> Images:
    """Larger, for a generator makes none of 4 pixels."""
    return replace(images, pixels=images.pixels.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


STEPS = {"steps": 8, "expected_batch_size": 40}
JOBS: dict[str, dict[str, Any]] = {
    "dp-sgd": {"network": "linear", "momentum": 0.5, "learning_rate": 0.5, **STEPS},
    "dp-mix-self": {"network": "linear", **STEPS},
    "dp-randp": {"encoder": "pixels", "phase_iii": "full", "phase_ii_share": 0.5, **STEPS},
    "dp-ridge": {"encoder": "pixels"},
    "dp-mepf": {"encoder": "pixels", "steps": 6, "batch_size": 20, "latent_size": 3},
}
CHECKPOINT = "private/checkpoint.safetensors"
LEARNED = "private/learned.safetensors"


def checkpoint_of(method: str) -> str:
    """What a run of `begin` goes on from."""
    return "private/finishing.safetensors" if method == "dp-mepf" else CHECKPOINT


class Stopped(Exception):  # noqa: N818
    """In place of a process that died."""


def begin(method: str, images: Images, out: Path, seed: int = 1) -> None:
    """A run that stops when it has released something, or in its sixth step."""

    def progress(what: str, done: int, total: int, account: object = None) -> None:
        if what == "fitting the generator" or (done == 6 and what not in ("features", "reading images")):
            raise Stopped

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    options: dict[str, Any] = {"epsilon": 3.0, "out": out, "method": method, "config": JOBS[method]}
    make = dpvision.train
    if method == "dp-mepf":
        make, options = dpvision.synthesize, {"count": 20, **options}
    with pytest.MonkeyPatch.context() as patch:
        if method == "dp-ridge":  # between its checkpoint and what it has learned
            patch.setattr(Run, "keep", stop)
        with pytest.raises(Stopped):
            make(images, seed=seed, progress=progress, **options)
    assert not (out / "release").exists()


def everything(folder: Path, ledger: Path) -> dict[str, bytes | None]:
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {**found, "ledger": ledger.read_bytes() if ledger.exists() else None}


def refused(images: Images, out: Path, message: str) -> None:
    """Going on is refused in one sentence, and nothing has changed."""
    ledger = default_ledger_path(images.digest)
    before = everything(out, ledger)
    with pytest.raises(InputError, match=message) as caught:
        dpvision.resume(out, data=images)
    assert "\n" not in str(caught.value)
    assert everything(out, ledger) == before


# The ledger -----------------------------------------------------------------------------------------------


def deleted(ledger: Path, before: bytes) -> None:
    ledger.unlink()


def emptied(ledger: Path, before: bytes) -> None:
    ledger.write_bytes(b"")


def older(ledger: Path, before: bytes) -> None:
    ledger.write_bytes(before)


def cut(ledger: Path, before: bytes) -> None:
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:-1]))


def of_other_images(ledger: Path, before: bytes) -> None:
    other = Ledger.for_dataset(ledger.with_name("other.jsonl"), "cd" * 32, 99)
    ledger.write_bytes(other.path.read_bytes())


@pytest.mark.parametrize("method", JOBS)
@pytest.mark.parametrize("lose", [deleted, emptied, older, cut, of_other_images])
def test_a_ledger_that_has_lost_releases_of_the_run(
    method: str, lose: Callable[[Path, bytes], None], images: Images, tmp_path: Path
) -> None:
    path = default_ledger_path(images.digest)
    Ledger.for_dataset(path, images.digest, len(images))
    before = path.read_bytes()
    begin(method, images, tmp_path / "run")
    whole = path.read_bytes()
    if lose is cut and method == "dp-mepf":  # its last line says that the run is closed
        path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    lose(path, before)
    refused(images, tmp_path / "run", "restore it from a copy")
    path.write_bytes(whole)
    dpvision.resume(tmp_path / "run", data=images)
    spent = [run["epsilon_spent"] for run in Ledger(path).summary()["runs"]]
    assert len(spent) == 1
    assert 2.9 < spent[0] <= 3


def test_a_run_that_stopped_before_its_ledger_was_begun_goes_on(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt  # nothing is tidied up

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "for_dataset", stop)
        with pytest.raises(KeyboardInterrupt):
            dpvision.train(images, epsilon=3.0, out=tmp_path / "run", config=JOBS["dp-sgd"])
    assert not default_ledger_path(images.digest).exists()
    assert dpvision.resume(tmp_path / "run", data=images).epsilon > 2.9


def test_a_failing_ledger_leaves_no_run(images: Images, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = tmp_path / "file" / "ledger"
    for make, method in ((dpvision.train, "dp-randp"), (dpvision.synthesize, "dp-mepf")):
        with pytest.raises(InputError, match="cannot be written"):
            make(images, method=method, config=JOBS[method], epsilon=3.0, out=tmp_path / "run", ledger=ledger)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


# The checkpoint -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", JOBS)
def test_a_checkpoint_that_was_damaged(method: str, images: Images, tmp_path: Path) -> None:
    begin(method, images, tmp_path / "run")
    names = [checkpoint_of(method)]
    if method == "dp-mepf":
        names.append(LEARNED)
    for name in names:
        path = tmp_path / "run" / name
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        flips = [0, 7, 8, header // 2, header - 1, header, (header + len(whole)) // 2, len(whole) - 1]
        for index in flips:
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 4]) + whole[index + 1 :])
            refused(images, tmp_path / "run", f"{path.name} was changed or damaged")
        for size in (0, 7, 8, header - 1, len(whole) - 1):
            path.write_bytes(whole[:size])
            refused(images, tmp_path / "run", f"{path.name} was changed or damaged")
        path.write_bytes(whole)
    dpvision.resume(tmp_path / "run", data=images)


@pytest.mark.parametrize("method", JOBS)
def test_a_checkpoint_of_another_run(method: str, images: Images, tmp_path: Path) -> None:
    begin(method, images, tmp_path / "run")
    others = {"twin": (method, 1), "method": ("dp-sgd" if method != "dp-sgd" else "dp-ridge", 1)}
    for name, (other, seed) in others.items():
        begin(other, images, tmp_path / name, seed)
        shutil.copy(tmp_path / name / checkpoint_of(other), tmp_path / "run" / checkpoint_of(method))
        refused(images, tmp_path / "run", "no checkpoint of this run")


def test_what_another_run_has_learned(images: Images, tmp_path: Path) -> None:
    """Else it would be published under this run's card."""
    begin("dp-mepf", images, tmp_path / "run")
    begin("dp-mepf", images, tmp_path / "twin")
    path = tmp_path / "run" / LEARNED
    whole = path.read_bytes()
    shutil.copy(tmp_path / "twin" / LEARNED, path)
    refused(images, tmp_path / "run", "is not of this run")
    path.write_bytes(whole)
    dpvision.resume(tmp_path / "run")


def test_files_that_are_no_checkpoint(images: Images, tmp_path: Path) -> None:
    begin("dp-sgd", images, tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(3)}))
    refused(images, tmp_path / "run", "was changed or damaged")
    path.write_bytes(safetensors_bytes({"a": torch.zeros(3)}))
    refused(images, tmp_path / "run", "no checkpoint of this run")
    path.unlink()
    path.mkdir()
    refused(images, tmp_path / "run", r"checkpoint\.safetensors cannot be read")


Change = Callable[[dict[str, Tensor]], None]


def setting(name: str, value: Any) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        state[name] = value if isinstance(value, Tensor) else torch.tensor(value)

    return change


def each(kind: str, new: Callable[[Tensor], Tensor]) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith(kind)]:
            state[name] = new(state[name])

    return change


def without(kind: str) -> Change:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith(kind)]:
            del state[name]

    return change


def rewrite(path: Path, change: Change) -> None:
    """As whoever knows the format could: the checksum is right."""
    content = path.read_bytes()
    state = safetensors.torch.load(content)
    change(state)
    path.write_bytes(safetensors_bytes(state, checked_facts(path, content)))


NAN = float("nan")
OF_STEPS = {
    "negative": setting("steps_done", -1),
    "beyond": setting("steps_done", 9),
    "float": setting("steps_done", 3.0),
    "several": setting("steps_done", [1, 2]),
    "no steps": without("steps_done"),
}
OF_TRAINING = {
    "no model": without("model."),
    "no average": without("average."),
    "model is not finite": each("model.", lambda tensor: tensor * NAN),
    "average is not finite": each("average.", lambda tensor: tensor * float("inf")),
    "average of another shape": each("average.", lambda tensor: tensor.flatten()[:1]),
    "doubles": each("average.", lambda tensor: tensor.double()),
    "another parameter": setting("model.more", [1.0]),
    "momentum is not finite": each("optimizer.", lambda tensor: tensor * NAN),
    "momentum of another shape": each("optimizer.", lambda tensor: tensor.flatten()),
    "momentum of no parameter": setting("optimizer.99.momentum_buffer", [1.0]),
}
OF_METHOD: dict[str, dict[str, Change]] = {
    "dp-sgd": OF_STEPS | OF_TRAINING,
    "dp-randp": OF_STEPS
    | {
        "no stage": without("stage"),
        "stage": setting("stage", 3),
        "a stage that is not done": setting("stage", 2),
        "lost": setting("lost", -1),
        "lost more than all": setting("lost", 9),
    },
    "dp-ridge": {
        "not finite": each("result.0.moment", lambda tensor: tensor * NAN),
        "one less": without("result.0.counts"),
        "one more": setting("result.0.more", [1.0]),
        "of another shape": each("result.0.sums", lambda tensor: tensor.T),
        "doubles": each("result.0.sums", lambda tensor: tensor.double()),
    },
    "dp-mepf": OF_STEPS
    | {
        "no generator": without("generator."),
        "not finite": each("average.", lambda tensor: tensor * NAN),
        "of another shape": each("average.", lambda tensor: tensor.flatten()[:1]),
        "optimiser": setting("optimizer.999.step", 1.0),
    },
}


@pytest.mark.parametrize("method", OF_METHOD)
def test_a_checkpoint_that_does_not_fit(method: str, images: Images, tmp_path: Path) -> None:
    begin(method, images, tmp_path / "run")
    path = tmp_path / "run" / checkpoint_of(method)
    whole = path.read_bytes()
    rewrite(path, lambda state: None)
    assert path.read_bytes() == whole  # so what is refused below is refused for the change
    for name, change in OF_METHOD[method].items():
        rewrite(path, change)
        assert path.read_bytes() != whole, name
        refused(images, tmp_path / "run", "checkpoint: it is of another")
        path.write_bytes(whole)
    dpvision.resume(tmp_path / "run", data=images)


# The records ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dp-sgd", "dp-mepf"])
def test_records_that_were_edited(method: str, images: Images, tmp_path: Path) -> None:
    begin(method, images, tmp_path / "run")
    for name in ("config.json", "private/run.json"):
        path = tmp_path / "run" / name
        whole = path.read_bytes()
        fields = json.loads(whole)
        for key in fields:
            for other in (None, 7, "x", [], {}):
                if fields[key] != other:
                    path.write_bytes(json_bytes({**fields, key: other}))
                    refused(images, tmp_path / "run", "changed or damaged; restore")
            path.write_bytes(json_bytes({k: value for k, value in fields.items() if k != key}))
            refused(images, tmp_path / "run", "changed or damaged; restore")
        for content in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000, whole[:-3]):
            path.write_bytes(content)
            refused(images, tmp_path / "run", "changed or damaged")
        path.write_bytes(whole)
    dpvision.resume(tmp_path / "run", data=images)


def test_less_noise_is_refused_by_the_ledger(images: Images, tmp_path: Path) -> None:
    """Even to whoever knows how the records are sealed."""
    begin("dp-sgd", images, tmp_path / "run")
    (tmp_path / "run" / CHECKPOINT).unlink()  # it names the records it belongs to
    config, record = tmp_path / "run" / "config.json", tmp_path / "run" / "private" / "run.json"
    fields, private = json.loads(config.read_bytes()), json.loads(record.read_bytes())
    del private["seal"]
    for change, message in (
        ({"noise_multiplier": fields["noise_multiplier"] / 2}, "more than the budget"),
        (
            {
                "noise_multiplier": fields["noise_multiplier"] / 2,
                "budget": {**fields["budget"], "epsilon": 300.0},
            },
            "with another plan",
        ),
        ({"config": {**fields["config"], "steps": 4}}, "with another plan"),
    ):
        changed = {**fields, **change}
        seal = hashlib.sha256(json.dumps([changed, private]).encode()).hexdigest()
        config.write_bytes(json_bytes(changed))
        record.write_bytes(json_bytes({**private, "seal": seal}))
        refused(images, tmp_path / "run", message)


@pytest.mark.parametrize("method", ["dp-sgd", "dp-mepf"])
def test_a_run_of_another_version(
    method: str, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(method, images, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("dpvision.api.accounts.version", lambda name: "99.0")
        refused(images, tmp_path / "run", "was begun by dpvision .*, and this is 99.0")
    dpvision.resume(tmp_path / "run", data=images)


@pytest.mark.parametrize("content", [b"no line\n", b"[]\n", b'{"seconds": "x"}\n', b"\xff\n"])
def test_metrics_that_were_damaged(content: bytes, images: Images, tmp_path: Path) -> None:
    begin("dp-sgd", images, tmp_path / "run")
    path = tmp_path / "run" / "private" / "metrics.jsonl"
    path.write_bytes(content)
    refused(images, tmp_path / "run", r"metrics\.jsonl was changed or damaged")
    path.unlink()
    dpvision.resume(tmp_path / "run", data=images)


@pytest.mark.parametrize("lost", ["budget", "data"])
def test_a_configuration_without_budget_or_data_is_refused(lost: str, images: Images, tmp_path: Path) -> None:
    """However its seal came to fit: what was never learned cannot be gone on with."""
    begin("dp-sgd", images, tmp_path / "run")
    config = replace(RunConfig.from_json(RunDirectory.open(tmp_path / "run").config), **{lost: None})
    with pytest.raises(InputError, match="no budget or no data"):
        config.check_learns()
    with pytest.raises(InputError, match="changed or damaged"):
        config.spending  # noqa: B018
