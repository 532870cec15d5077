"""The same images have one budget, whatever their files, folders, labels and ledgers are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dpvision
from dpvision.api.priors import train_prior
from dpvision.cli.main import run
from dpvision.images import Images, open_images
from dpvision.priors import ContrastiveConfig
from dpvision.privacy import Budget, BudgetExceeded, InputError, Ledger, default_ledger_path
from dpvision.runs.directory import RunDirectory

COUNT = 60
OPTIONS: dict[str, Any] = {
    "epsilon": 1.0, "delta": 1e-4, "method": "dp-sgd",
    "config": {"network": "linear", "steps": 5, "expected_batch_size": 16, "learning_rate": 0.5},
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Images:
    return open_images("bundled:digits").subset(range(COUNT))


def folder_of(
    images: Images,
    path: Path,
    *,
    form: str = "png",
    mode: str = "L",
    name: Callable[[int], str] = "{:04d}".format,
    label: Callable[[int], str] = str,
    some: range = range(COUNT),
) -> Path:
    assert images.labels is not None
    for index in some:
        file = path / label(int(images.labels[index])) / f"{name(index)}.{form}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.pixels[index, 0].numpy()).convert(mode).save(file)
    return path


def archive_of(images: Images, path: Path) -> Path:
    assert images.labels is not None
    np.savez(path, images=images.pixels[:, 0].numpy(), labels=images.labels.numpy())
    return path


AGAIN: dict[str, Callable[[Images, Path], Any]] = {
    "as they are": folder_of,
    "in another order": lambda d, p: folder_of(d, p, name=lambda i: f"{i * 7919 % 10007:05d}"),
    "with other classes": lambda d, p: folder_of(d, p, label=lambda y: f"z{9 - y}"),
    "in colour that is grey": lambda d, p: folder_of(d, p, mode="RGB"),
    "in another format": lambda d, p: folder_of(d, p, form="bmp"),
    "in an archive": lambda d, p: archive_of(d, p.with_suffix(".npz")),
    "but one": lambda d, p: folder_of(d, p, some=range(COUNT - 1)),
    "in memory, shuffled": lambda d, p: d.subset(torch.randperm(COUNT)),
    "in memory, two labels": lambda d, p: Images(d.pixels, (d.labels > 4).long(), ("lo", "hi"), "mem"),  # type: ignore[operator]
    "among others": lambda d, p: open_images("bundled:digits"),
}


@pytest.fixture
def spent(digits: Images, tmp_path: Path) -> Path:
    """A folder whose owner's limit is spent."""
    folder = folder_of(digits, tmp_path / "photos")
    assert run(["ledger", str(folder), "--limit-epsilon", "1", "--limit-delta", "1e-4"]) == 0
    dpvision.train(folder, out=tmp_path / "first", **OPTIONS)
    return folder


def refused(data: Any, out: Path, **options: Any) -> None:
    with pytest.raises(BudgetExceeded, match=r"over (their|its) owner's limit of 1"):
        dpvision.train(data, out=out, **OPTIONS | options)
    assert not out.exists()


@pytest.mark.parametrize("how", AGAIN)
def test_there_is_no_second_budget(how: str, digits: Images, spent: Path, tmp_path: Path) -> None:
    refused(AGAIN[how](digits, tmp_path / "again"), tmp_path / "run")


def test_nor_by_another_size_or_ledger_or_an_audit(digits: Images, spent: Path, tmp_path: Path) -> None:
    refused(spent, tmp_path / "run", size=6)
    refused(spent, tmp_path / "run", channels=3)
    part = folder_of(digits, tmp_path / "part", some=range(10, 40))  # known by its images alone
    refused(part, tmp_path / "run", size=6)
    refused(part, tmp_path / "run", channels=3)
    refused(spent, tmp_path / "run", ledger=tmp_path / "mine.jsonl")
    refused(
        digits.subset([5]),
        tmp_path / "run",
        delta=1e-3,
        config=OPTIONS["config"] | {"expected_batch_size": 1},
    )
    with pytest.raises(BudgetExceeded):
        dpvision.audit(digits.subset(torch.randperm(COUNT)), **OPTIONS)


def test_nor_where_the_limit_was_set_before_any_run(digits: Images, tmp_path: Path) -> None:
    folder = folder_of(digits, tmp_path / "photos")
    assert run(["ledger", str(folder), "--limit-epsilon", "0.5", "--limit-delta", "1e-4"]) == 0
    with pytest.raises(BudgetExceeded, match=r"owner's limit of 0\.5"):
        dpvision.train(digits.subset(torch.randperm(COUNT)), out=tmp_path / "run", **OPTIONS)


def test_a_limit_that_was_set_in_python_holds_in_other_ledgers(digits: Images, tmp_path: Path) -> None:
    ledger = Ledger.for_dataset(default_ledger_path(digits.digest), digits.digest, COUNT)
    ledger.set_limit(Budget(0.5, 1e-4))
    with pytest.raises(BudgetExceeded, match=r"owner's limit of 0\.5"):
        dpvision.train(digits, out=tmp_path / "run", ledger=tmp_path / "mine.jsonl", **OPTIONS)


def test_other_images_have_a_budget_of_their_own(spent: Path, tmp_path: Path) -> None:
    others = open_images("bundled:digits").subset(range(COUNT, 2 * COUNT))
    dpvision.train(others, out=tmp_path / "run", **OPTIONS)
    assert (RunDirectory.open(tmp_path / "run").release_path / "card.json").exists()


def test_private_images_are_no_public_ones_afterwards(digits: Images, spent: Path, tmp_path: Path) -> None:
    """Also where one of them is missing."""
    most = folder_of(digits, tmp_path / "most", some=range(COUNT - 1))
    assert (
        run(["prior", "train", "--public-images", str(most), "--out", str(tmp_path / "prior.safetensors")])
        == 2
    )
    assert not (tmp_path / "prior.safetensors").exists()


def test_an_encoder_that_was_learned_from_some_of_the_images_is_refused(
    digits: Images, tmp_path: Path
) -> None:
    """While they were taken for public: before any private run."""
    most = folder_of(digits, tmp_path / "most", mode="RGB", some=range(COUNT - 1))
    others = folder_of(open_images("bundled:digits", "test"), tmp_path / "others")
    small = ContrastiveConfig(
        network="wrn-10-1", steps=1, batch_size=8, image_size=16, view_size=16, embedding_dim=4
    )
    for public in (most, others):
        train_prior(small, public.with_suffix(".safetensors"), public_images=public)
        train_prior(
            small, public.with_suffix(".again.safetensors"), public_images=public
        )  # as often as one likes
    options = {"epsilon": 1.0, "delta": 1e-4, "method": "dp-ridge"}
    with pytest.raises(InputError, match="learned from the private images themselves, or some of them"):
        dpvision.train(
            digits, out=tmp_path / "run", config={"encoder": str(most.with_suffix(".safetensors"))}, **options
        )
    assert not (tmp_path / "run").exists()
    audited = {**options, "config": {"encoder": str(most.with_suffix(".safetensors"))}, "canaries": 20}
    with pytest.raises(InputError, match="learned from the private images themselves, or some of them"):
        dpvision.audit(digits, **audited)
    assert "do not publish" in dpvision.audit(digits, allow_overlap=True, **audited).notice
    dpvision.train(
        digits, out=tmp_path / "run", config={"encoder": str(others.with_suffix(".safetensors"))}, **options
    )
