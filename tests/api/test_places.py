"""No file of a release has a place of the owner's machine in it, whatever settings name files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpvision
from dpvision.api.priors import train_prior
from dpvision.images import Images
from dpvision.images.files import named
from dpvision.methods.places import without_places
from tests.api.test_priors import SMALL

FIT: dict[str, Any] = {"steps": 1, "batch_size": 20, "latent_size": 3}
OPTIONS: dict[str, Any] = {"epsilon": 5.0, "delta": 1e-3}


def images(count: int = 40) -> Images:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 2, ("left", "right"), "made")


@pytest.fixture
def prior(tmp_path: Path) -> str:
    """A prior of the owner's, in a folder that is nobody's business."""
    folder = tmp_path / "whose-folder"
    folder.mkdir()
    train_prior(SMALL, folder / "own.safetensors", device="cpu")
    return str(folder / "own.safetensors")


def places_in(release: Path) -> list[str]:
    files = [file for file in release.rglob("*") if file.is_file()]
    assert len(files) > 3
    return [file.name for file in files if b"whose-folder" in file.read_bytes()]


@pytest.mark.parametrize(
    ("method", "form"),
    [("dp-randp", "{}"), ("dp-ridge", "{}+pixels"), ("dp-mepf", "{}"), ("dp-distill", "{}+pixels")],
)
def test_an_encoder_has_no_folder(method: str, form: str, prior: str, tmp_path: Path) -> None:
    encoder: dict[str, Any] = {"encoder": form.format(prior), "encoder_options": {}}
    settings = {
        "dp-randp": encoder | {"steps": 2},
        "dp-ridge": encoder | {"encoder_options": {"parts": [{}, {"size": 4}]}},
        "dp-mepf": encoder | FIT,
        "dp-distill": {"teacher": encoder | {"steps": 2}},
    }
    if method in ("dp-mepf", "dp-distill"):
        dpvision.synthesize(
            images(), method=method, config=settings[method], count=4, out=tmp_path / "run", **OPTIONS
        )
    else:
        dpvision.train(images(), method=method, config=settings[method], out=tmp_path / "run", **OPTIONS)
    assert places_in(tmp_path / "run" / "release") == []
    assert "ENCODER" in (tmp_path / "run" / "release" / "card.json").read_text()


def test_nor_has_one_that_was_searched_for(prior: str, tmp_path: Path) -> None:
    dpvision.tune(
        images(),
        method="dp-randp",
        search={"encoder": [prior, "patches"]},
        config={"steps": 2},
        out=tmp_path / "run",
        **OPTIONS,
    )
    assert places_in(tmp_path / "run" / "release") == []
    command = json.loads((tmp_path / "run" / "release" / "card.json").read_text())["made"]["command"]
    assert "--search encoder=ENCODER,patches" in command


def test_nor_has_a_pool_without_a_record_nor_a_test_set(tmp_path: Path) -> None:
    for name, count in (("private", 40), ("pool", 30), ("test", 20)):
        folder = tmp_path / "whose-folder" / name
        folder.mkdir(parents=True)
        some = images(count)
        pixels = some.take(torch.arange(count)).permute(0, 2, 3, 1).numpy()
        np.savez(folder / "images.npz", images=pixels, labels=some.labels)
    folder = tmp_path / "whose-folder"
    mixed = {"network": "linear", "expected_batch_size": 10, "pool": str(folder / "pool"), "k_diff": 1}
    dpvision.train(
        folder / "private",
        method="dp-mix-diff",
        config={**mixed, "steps": 2, "augmult": 2},
        test=folder / "test",
        out=tmp_path / "run",
        ledger=folder / "ledger.jsonl",
        **OPTIONS,
    )
    assert places_in(tmp_path / "run" / "release") == []
    assert "- source: pool\n" in (tmp_path / "run" / "release" / "card.md").read_text()


def test_nor_have_weights_of_a_part() -> None:

    def settings(weights: str, pool: str) -> dict[str, Any]:
        options = {"parts": [{"weights": weights}, {"centroids": 3}], "part_weights": [1.0, 2.0]}
        return {"encoder": "vgg19+patches", "encoder_options": options, "pool": pool}

    assert without_places(settings("vgg19.pth", "photos")) == settings("FILE", "POOL")


def test_a_prior_of_public_images_and_of_another_names_no_folder(prior: str, tmp_path: Path) -> None:
    public = tmp_path / "whose-folder" / "photos.npz"
    np.savez(public, images=images(16).take(torch.arange(16)).permute(0, 2, 3, 1).numpy())
    out = tmp_path / "whose-folder" / "next.safetensors"
    found = train_prior(SMALL, out, public_images=public, initial_prior=prior, device="cpu").provenance
    assert "whose-folder" not in str(found)
    given = "'next.safetensors', public_images='photos.npz', initial_prior='own.safetensors'"
    assert given in found["command"]
    assert found["processes"] == ["public images: photos.npz"]


def test_what_is_no_place_keeps_its_name(tmp_path: Path) -> None:
    assert named(tmp_path / "new.safetensors") == "new.safetensors"
    for name in ("timm:hf/resnet18", "wrn-10-4-small", "own.safetensors", ""):
        assert named(name) == name
