"""Priors made on settings so small that each takes a fraction of a second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import dpvision
from dpvision.api.priors import made_images, train_prior
from dpvision.networks import build_network
from dpvision.priors import ContrastiveConfig, Prior, image_batches, load_prior, save_prior
from dpvision.priors.phase_one import contrastive
from dpvision.priors.phase_one.prior_file import PROVENANCE
from dpvision.privacy import InputError

CPU = torch.device("cpu")
SMALL = ContrastiveConfig(
    network="wrn-10-1",
    processes=("dead-leaves-squares", "statistical-spectrum"),
    count=16,
    image_size=16,
    view_size=16,
    steps=3,
    batch_size=8,
    learning_rate=4.0,  # scaled by 8 / 256
    embedding_dim=8,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixteen images of two colours."""
    folder = tmp_path / "public"
    folder.mkdir()
    for index, colours in enumerate(np.random.default_rng(0).integers(0, 256, (16, 1, 2, 3), dtype=np.uint8)):
        Image.fromarray(colours.repeat(20, 0).repeat(10, 1)).save(folder / f"{index}.png")
    return folder


def untrained(tmp_path: Path) -> dict[str, Tensor]:
    """The weights that `SMALL` begins with."""
    return train(replace(SMALL, learning_rate=1e-30), tmp_path / "untrained.safetensors").weights


def train(config: ContrastiveConfig, out: Path, **options: Any) -> Prior:
    return train_prior(config, out, device="cpu", **options)


def differ(weights: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return any(not torch.equal(weights[name], others[name]) for name in others)


def test_a_prior_of_processes(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    out = tmp_path / "small.safetensors"
    prior = train(SMALL, out, command="as typed", progress=lambda *step: told.append(step))
    assert told == [
        ("making images", 8, 16),
        ("making images", 16, 16),
        *(("training", step, 3) for step in (1, 2, 3)),
    ]
    assert {file.name for file in tmp_path.iterdir()} == {"small.safetensors", "small.json"}

    loaded = load_prior(out)
    assert (loaded.name, loaded.network, loaded.network_options) == ("small", "wrn-10-1", {})
    assert prior.provenance == loaded.provenance == json.loads((tmp_path / "small.json").read_text())
    assert not differ(prior.weights, loaded.weights)
    network = build_network("wrn-10-1", in_channels=3, image_size=(16, 16), num_classes=2)
    assert loaded.weights.keys() == {
        name for name in network.state_dict() if name.startswith(("stem.", "stages."))
    }
    start = untrained(tmp_path)
    assert all(not torch.equal(weight, start[name]) for name, weight in loaded.weights.items())

    provenance = loaded.provenance
    assert set(PROVENANCE) <= provenance.keys()
    assert provenance["processes"] == list(SMALL.processes)
    assert (provenance["count"], provenance["views"], provenance["stream"]) == (16, 48, False)
    assert provenance["settings"]["image_size"] == 16
    assert provenance["command"] == "as typed"
    assert "over the last 3 steps" in provenance["figure"]


def test_a_prior_of_a_stream(tmp_path: Path) -> None:
    prior = train(SMALL, tmp_path / "stream.safetensors", stream=True)
    assert (prior.provenance["count"], prior.provenance["stream"]) == (24, True), "3 steps of 8 new images"
    assert differ(prior.weights, train(SMALL, tmp_path / "pool.safetensors").weights)


def test_a_prior_begins_with_another(tmp_path: Path) -> None:
    """With its very weights, which a step of no length shows; they are in its provenance."""
    first = train(SMALL, tmp_path / "first.safetensors")
    still = replace(SMALL, learning_rate=1e-30, steps=1, seed=1)
    second = train(still, tmp_path / "second.safetensors", initial_prior=tmp_path / "first.safetensors")
    assert not differ(first.weights, second.weights)
    assert second.provenance["initial_prior"] == first.provenance
    assert differ(first.weights, train(still, tmp_path / "third.safetensors").weights)


def test_an_initial_prior_of_another_network_is_refused(tmp_path: Path) -> None:
    train(SMALL, tmp_path / "first.safetensors")
    before = sorted(tmp_path.iterdir())
    wider = replace(SMALL, network="wrn-10-2")
    with pytest.raises(InputError, match="weights are of another network"):
        train(wider, tmp_path / "second.safetensors", initial_prior=tmp_path / "first.safetensors")
    with pytest.raises(InputError, match="there is no prior 'none'"):
        train(SMALL, tmp_path / "second.safetensors", initial_prior="none")
    assert sorted(tmp_path.iterdir()) == before


def test_a_prior_of_public_images(tmp_path: Path, folder: Path) -> None:
    prior = train(SMALL, tmp_path / "public.safetensors", public_images=folder)
    assert prior.provenance["processes"] == ["public images: public"]
    assert prior.provenance["count"] == 16
    assert differ(prior.weights, untrained(tmp_path))


@pytest.mark.parametrize("options", [{}, {"stream": True}, {"public_images": Path("public")}])
@pytest.mark.usefixtures("folder")
def test_the_command_in_the_provenance_makes_the_prior_again(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("small.safetensors")
    prior = train(replace(SMALL, network_options={"stem_stride": 2}), out, **options)
    for file in (out, out.with_suffix(".json")):
        file.unlink()
    exec(prior.provenance["command"], {})
    again = load_prior(out)
    assert again.provenance == prior.provenance
    assert not differ(again.weights, prior.weights)


@pytest.mark.parametrize("source", ["pool", "stream", "folder"])
def test_an_interrupted_training_goes_on(
    source: str, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "pool": {},
        "stream": {"stream": True},
        "folder": {"public_images": folder},
    }[source]
    config = replace(SMALL, steps=4)
    expected = train(config, tmp_path / "whole.safetensors", **options)

    monkeypatch.setattr(contrastive, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    steps: list[int] = []

    def until_the_third(what: str, done: int, _: int) -> None:
        if what == "training":
            steps.append(done)
            if steps == [1, 2, 3]:
                raise KeyboardInterrupt

    out = tmp_path / "small.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(config, out, **options, progress=until_the_third)
    assert out.with_suffix(".checkpoint").exists()
    assert not out.exists()
    prior = train(config, out, **options, progress=until_the_third)
    assert steps == [1, 2, 3, 3, 4], "the third was not written down"
    assert not differ(prior.weights, expected.weights)
    assert "over the last 2 steps" in prior.provenance["figure"]
    assert not out.with_suffix(".checkpoint").exists()


def test_a_stream_does_not_go_on_from_the_checkpoint_of_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    def interrupt(_: str, done: int, total: int) -> None:
        if (done, total) == (2, SMALL.steps):
            raise KeyboardInterrupt

    out = tmp_path / "small.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, out, progress=interrupt)
    with pytest.raises(InputError, match="no checkpoint of this training"):
        train(SMALL, out, stream=True)


def test_a_training_does_not_go_on_from_the_checkpoint_of_other_public_images(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    def interrupt(_: str, done: int, __: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "small.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, out, public_images=folder, progress=interrupt)
    last = folder / "15.png"
    before = last.read_bytes()
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(last)
    with pytest.raises(InputError, match="no checkpoint of this training"):
        train(SMALL, out, public_images=folder)
    last.write_bytes(before)
    train(SMALL, out, public_images=folder.rename(tmp_path / "moved"))


@pytest.mark.parametrize("count", [5, 16, 150])
def test_every_process_makes_its_share(count: int) -> None:
    images = made_images(replace(SMALL, count=count), CPU, None)
    assert images.shape == (count, 3, 16, 16)
    assert images.dtype == torch.uint8
    # Shares of 150 are 75 images: two batches of 38, the last one short of two.
    batch = {5: 3, 16: 8, 150: 38}[count]
    parts = zip(image_batches(SMALL.processes, 16, 0, CPU, batch), images.split(batch), strict=False)
    assert all(torch.equal(made[: len(part)], part) for made, part in parts)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"processes": ("clouds",)}, {}, "no random process 'clouds'"),
        ({"processes": ("clouds",)}, {"stream": True}, "no random process 'clouds'"),
        ({"processes": ()}, {}, "no random process is named"),
        ({"count": 0}, {}, "0 images are too few for 2 processes"),
        ({"count": 7}, {}, "7 images do not fill a batch of 8"),
        ({"batch_size": 17}, {"public_images": "public"}, "16 images do not fill a batch of 17"),
        ({"processes": SMALL.processes * 5}, {"stream": True}, "8 images are too few for 10 processes"),
        ({"image_size": 8}, {}, "at least 16 pixels"),
        ({"network": "linear"}, {}, "not of 'linear'"),
        ({"seed": -1}, {"public_images": "public"}, "seed must be at least 0"),
        ({}, {"public_images": "public", "stream": True}, "leave stream out"),
        ({}, {"public_images": "nowhere"}, "nowhere does not exist"),
        ({}, {"device": "abacus"}, "abacus"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_learned_is_refused(
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        train_prior(replace(SMALL, **changes), "small.safetensors", **{"device": "cpu"} | options)
    assert [file.name for file in tmp_path.iterdir()] == ["public"]


def test_files_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    for taken in ("prior.safetensors", "other.json"):
        (tmp_path / taken).write_text("precious")
    for name, message in (
        ("prior.pt", "should end in .safetensors"),
        ("prior.safetensors", "prior.safetensors exists already"),
        ("other.safetensors", "other.json exists already"),
        ("folder/new.safetensors", "folder is not a folder"),
        ("other.json/new.safetensors", "other.json is not a folder"),
    ):
        with pytest.raises(InputError, match=message):
            train(SMALL, tmp_path / name)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "prior.safetensors": "precious",
        "other.json": "precious",
    }


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Two classes of twelve images."""
    pixels = np.random.default_rng(1).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        place = tmp_path / "private" / f"class{index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")
    return tmp_path / "private"


DP_RANDP: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-2, "method": "dp-randp", "size": 16}


@pytest.mark.parametrize("combined", [False, True])
def test_an_encoder_learned_from_the_private_images_is_refused(
    private: Path, folder: Path, tmp_path: Path, combined: bool
) -> None:
    """Whatever size they are read at, with labels or without, and alone or beside another encoder."""
    own, other = tmp_path / "own.safetensors", tmp_path / "other.safetensors"
    train(SMALL, own, public_images=private)
    train(SMALL, other, public_images=folder)
    assert "public_images_digest" in load_prior(own).provenance
    suffix = "+scattering" if combined else ""
    with pytest.raises(InputError, match="learned from the private images themselves"):
        dpvision.train(private, out=tmp_path / "run", config={"encoder": f"{own}{suffix}"}, **DP_RANDP)
    whitened = {"encoder": f"{own}{suffix}", "encoder_options": {"whiten": 0.2}}
    with pytest.raises(InputError, match="learned from the private images themselves"):
        dpvision.train(private, out=tmp_path / "run", config=whitened, **DP_RANDP)
    assert not (tmp_path / "run").exists()
    dpvision.train(private, out=tmp_path / "run", config={"encoder": f"{other}{suffix}"}, **DP_RANDP)


@pytest.mark.parametrize("method", ["dp-randp", "dp-ridge", "dp-mepf"])
def test_every_method_refuses_an_encoder_of_its_own_images(
    private: Path, tmp_path: Path, method: str
) -> None:
    own, config = tmp_path / "own.safetensors", {}
    train(SMALL, own, public_images=private)
    make: Any = dpvision.train
    if method == "dp-mepf":
        make, config = dpvision.synthesize, {"steps": 1, "batch_size": 4}
    with pytest.raises(InputError, match="learned from the private images themselves"):
        make(
            private,
            out=tmp_path / "run",
            **{**DP_RANDP, "method": method},
            config={"encoder": str(own), **config},
        )
    assert not (tmp_path / "run").exists()
    make(
        private,
        out=tmp_path / "run",
        **{**DP_RANDP, "method": method, "allow_overlap": True},
        config={"encoder": str(own), **config},
    )
    card = json.loads((tmp_path / "run" / "release" / "card.json").read_text())
    assert card["is_private"] is False
    assert ["own was learned from private images" in one for one in card["not_private_because"]] == [True]


def test_no_provenance_hides_what_an_encoder_was_learned_from(private: Path, tmp_path: Path) -> None:
    """As if the file were a sum of parts, and none of them learned from anything."""
    own, disguised = tmp_path / "own.safetensors", tmp_path / "disguised.safetensors"
    prior = train(SMALL, own, public_images=private)
    save_prior(disguised, replace(prior, provenance=prior.provenance | {"parts": []}))
    with pytest.raises(InputError, match="learned from the private images themselves"):
        dpvision.train(private, out=tmp_path / "run", config={"encoder": str(disguised)}, **DP_RANDP)


def test_a_prior_that_began_with_another_learned_from_its_images_too(private: Path, tmp_path: Path) -> None:
    own, later = tmp_path / "own.safetensors", tmp_path / "later.safetensors"
    train(SMALL, own, public_images=private)
    train(SMALL, later, initial_prior=own)
    with pytest.raises(InputError, match="learned from the private images themselves"):
        dpvision.train(private, out=tmp_path / "run", config={"encoder": str(later)}, **DP_RANDP)


def test_a_data_set_with_a_ledger_is_not_public(private: Path, tmp_path: Path) -> None:
    dpvision.train(private, out=tmp_path / "run", config={"steps": 2, "encoder": "pixels"}, **DP_RANDP)
    with pytest.raises(InputError, match="is a private data set, with the ledger"):
        train(SMALL, tmp_path / "prior.safetensors", public_images=private)
    assert list(tmp_path.glob("prior*")) == []
