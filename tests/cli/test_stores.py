"""A data set is read into a store, and the store removed, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dpvision.cli.main import run
from dpvision.images import open_images
from dpvision.images.stored import StoredImages
from tests.images import kinds_of_sources as sources


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return sources.folder(tmp_path / "photos")


def test_a_store_is_made_used_and_removed(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", str(source), "--cache"]) == 0
    said = capsys.readouterr()
    images = open_images(source)
    assert isinstance(images, StoredImages)
    assert f"{images.folder}, 0.0 MiB" in said.out
    assert "is read into a store, in" in said.err
    assert run(["data", str(source), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["store"], summary["store_bytes"]) == (str(images.folder), images.num_bytes)
    assert run(["data", str(source), "--forget"]) == 0
    assert capsys.readouterr().out == f"removed 1 store of {source}, 0.0 MiB\n"
    assert not images.folder.exists()
    assert not isinstance(open_images(source), StoredImages)
    assert run(["data", str(source), "--forget"]) == 0
    assert capsys.readouterr().out == f"{source} has no stores\n"


def test_what_is_removed_is_told_to_programs(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for choices in ([], ["--size", "8"]):
        assert run(["data", str(source), "--cache", *choices]) == 0
    capsys.readouterr()
    (source / "ant" / "0.png").rename(source.parent / "0.png")
    assert run(["data", str(source), "--forget", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["spec"], found["stores"]) == (str(source), 2)
    assert found["bytes"] > sources.PIXELS.nbytes


def test_a_run_learns_from_a_store(source: Path, tmp_path: Path) -> None:
    assert run(["data", str(source), "--cache"]) == 0
    settings = ["--set", "network=linear", "--set", "steps=2", "--set", "expected_batch_size=6"]
    out = str(tmp_path / "run")
    assert run(["train", str(source), "--epsilon", "8", "--delta", "0.01", "--out", out, *settings]) == 0
    assert run(["predict", out, str(source), "--out", str(tmp_path / "found.csv")]) == 0
    assert run(["data", str(source), "--to", "npz", str(tmp_path / "x.npz")]) == 0
    assert len(open_images(tmp_path / "x.npz")) == sources.COUNT


def test_to_remove_is_no_part_of_something_else(
    source: Path, check_sentence: Callable[[list[str], str], None]
) -> None:
    check_sentence(["data", str(source), "--forget", "--cache"], "--forget removes what is stored")
    check_sentence(["data", str(source), "--forget", "--sheet", "x.png"], "give it alone")
    check_sentence(["data", "no/such/folder", "--cache"], "does not exist")
