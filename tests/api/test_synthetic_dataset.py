"""dpvision.synthetic_dataset: what a run released, for PyTorch's DataLoader."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import dpvision
from dpvision.api import Synthesis, SyntheticDataset
from dpvision.images import Images, open_images
from dpvision.privacy import InputError

TEACHER = {"encoder": "pixels", "encoder_options": {}, "steps": 4, "calibration_share": 0.0}


def made(names: tuple[str, ...] = ("dark", "bright")) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(128, (90, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(90) % 2
    return Images(pixels + 128 * labels.view(-1, 1, 1, 1).to(torch.uint8), labels, names, "made")


def synthesize(out: Path, **options: Any) -> Synthesis:
    given = {"epsilon": 5.0, "delta": 1e-4, "count": 12, "out": out, **options}
    return dpvision.synthesize(made(), ledger=out.with_suffix(".jsonl"), **given)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run of dp-moments, and one of dp-distill."""
    folder = tmp_path_factory.mktemp("runs")
    formats = ["png", "npz", "parquet"]
    synthesize(folder / "moments", formats=formats, config={"rank": 3})
    synthesize(folder / "distill", formats=formats, method="dp-distill", config={"teacher": TEACHER})
    return folder


def only(run: Path, form: str, into: Path) -> Path:
    """A copy of a release that has its images in one format."""
    shutil.copytree(run / "release", into)
    for other in (into / "images").iterdir():
        if other.name != form:
            shutil.rmtree(other)
    return into


def test_a_loader_of_it_shuffles_in_workers(runs: Path) -> None:
    data = dpvision.synthetic_dataset(runs / "moments")
    assert isinstance(data, Dataset)
    assert (len(data), data.class_names, data.classes) == (12, ("dark", "bright"), ("dark", "bright"))
    pixels, labels = zip(*DataLoader(data, batch_size=5, num_workers=2, shuffle=True), strict=True)
    assert [len(one) for one in pixels] == [5, 5, 2]
    every, of_every = torch.cat(pixels), torch.cat(labels)
    assert (every.dtype, every.shape, of_every.dtype) == (torch.float32, (12, 1, 8, 8), torch.int64)
    released = open_images(runs / "moments")
    assert released.labels is not None
    assert data.labels is not None
    assert torch.equal(data.labels, released.labels)
    expected = released.take(torch.arange(12)).float() / 255
    order = [int((expected == image).flatten(1).all(dim=1).nonzero()) for image in every]
    assert sorted(order) == list(range(12))
    assert torch.equal(released.labels[torch.tensor(order)], of_every)


@pytest.mark.parametrize("method", ["moments", "distill"])
def test_every_format_is_the_same_data(runs: Path, tmp_path: Path, method: str) -> None:
    found = []
    for form in ("png", "npz", "parquet"):
        data = dpvision.synthetic_dataset(only(runs / method, form, tmp_path / form))
        assert data.class_names == ("dark", "bright")
        pairs = [(image.flatten(), torch.as_tensor(target).view(-1)) for image, target in data]
        found.append(sorted(torch.cat(pair).tolist() for pair in pairs))
    assert found[0] == found[1] == found[2]


def test_soft_labels_are_what_the_release_states(runs: Path) -> None:
    data = dpvision.synthetic_dataset(runs / "distill")
    _, soft = next(iter(DataLoader(data, batch_size=12)))
    assert (soft.dtype, soft.shape) == (torch.float32, (12, 2))
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(12))
    table = pq.read_table(runs / "distill" / "release" / "images" / "parquet" / "images.parquet")
    torch.testing.assert_close(soft, torch.tensor(table["probabilities"].to_pylist()), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(F.cross_entropy(torch.zeros(12, 2), soft))
    hard = dpvision.synthetic_dataset(runs / "distill", hard_labels=True)
    assert hard.probabilities is None
    assert [label for _, label in hard] == soft.argmax(dim=1).tolist()
    assert dpvision.synthetic_dataset(runs / "moments").probabilities is None


def test_a_transform_is_given_each_image(runs: Path) -> None:
    def shift(image: Tensor) -> Tensor:
        assert image.shape == (1, 8, 8)
        return image - 0.5

    plain, shifted = (dpvision.synthetic_dataset(runs / "moments", transform=one) for one in (None, shift))
    assert torch.equal(shifted[3][0], plain[3][0] - 0.5)


def test_new_images_of_the_generator(runs: Path) -> None:
    one, again = (dpvision.synthetic_dataset(runs / "moments", count=30, seed=1) for _ in range(2))
    other = dpvision.synthetic_dataset(runs / "moments", count=30)
    assert len(one) == len(other) == 30
    assert torch.equal(torch.stack([x for x, _ in one]), torch.stack([x for x, _ in again]))
    assert not torch.equal(torch.stack([x for x, _ in one]), torch.stack([x for x, _ in other]))
    assert len(dpvision.synthetic_dataset(runs / "distill", count=3)[0][1]) == 2


def test_images_without_classes_come_alone(tmp_path: Path) -> None:
    result = synthesize(tmp_path / "run", config={"rank": 3, "labelled": False})
    data = result.dataset()
    assert isinstance(data, SyntheticDataset)
    assert data.labels is None
    assert next(iter(DataLoader(data, batch_size=12))).shape == (12, 1, 8, 8)


def test_it_is_indexed_as_a_sequence(runs: Path) -> None:
    data = dpvision.synthetic_dataset(runs / "moments")
    assert len(list(data)) == 12
    assert torch.equal(data[-1][0], data[11][0])
    for index in (12, -13):
        with pytest.raises(IndexError, match="there are 12 images"):
            data[index]
    for several in (slice(0, 2), "a", 1.5):
        with pytest.raises(TypeError, match="an image is taken by an int"):
            data[several]  # type: ignore[index]
    assert repr(data) == "<SyntheticDataset: 12 of 1×8×8, 2 classes>"


def test_it_is_read_back_as_images(runs: Path) -> None:
    images = dpvision.images_from_dataset(dpvision.synthetic_dataset(runs / "moments"))
    assert images.class_names == ("dark", "bright")
    assert images.digest == open_images(runs / "moments").digest


def test_what_is_refused(runs: Path, tmp_path: Path) -> None:
    dpvision.train(
        made(), epsilon=5, delta=1e-4, config={"network": "linear", "steps": 2}, out=tmp_path / "run"
    )
    with pytest.raises(InputError, match="released a classifier and no images; give a run of dpvision synth"):
        dpvision.synthetic_dataset(tmp_path / "run")
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"config\.json is missing; give the release directory"):
            dpvision.synthetic_dataset(place)
    with pytest.raises(InputError, match="give a run's directory or release directory, not None"):
        dpvision.synthetic_dataset(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed is for new images"):
        dpvision.synthetic_dataset(runs / "moments", seed=1)
    with pytest.raises(InputError, match="must be at least 1, not 0"):
        dpvision.synthetic_dataset(runs / "moments", count=0)
    release = only(runs / "moments", "none", tmp_path / "release")
    with pytest.raises(InputError, match="released no images"):
        dpvision.synthetic_dataset(release)
