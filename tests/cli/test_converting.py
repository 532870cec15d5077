"""`dpvision data SPEC --to … --sheet …`: what is written is the data set, and nobody else's to read."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpvision.api.converting import OF_A_CLASS
from dpvision.cli.main import run
from dpvision.images import Images, available_splits, open_images
from dpvision.reports.grid import class_sheet

SPLITS = {"train": 7, "test": 4}


def two_splits(place: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for index in range(count):
            file = place / split / ("cat", "dog")[index % 2] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(file)
    return place


def known_as(images: Images) -> list[tuple[bytes, str]]:
    assert images.labels is not None
    names = [images.class_names[label] for label in images.labels.tolist()]
    return sorted(zip((one.numpy().tobytes() for one in images.identities), names, strict=True))


@pytest.mark.parametrize(("to", "out"), [("parquet", "p"), ("folder", "new/f"), ("npz", "x.npz")])
def test_all_splits_are_written_and_read_as_they_were(
    tmp_path: Path, to: str, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, place = two_splits(tmp_path / "data"), tmp_path / out
    assert run(["data", str(data), "--to", to, str(place)]) == 0
    assert "do not publish" in capsys.readouterr().out
    assert set(available_splits(place)) == set(SPLITS)
    for split, count in SPLITS.items():
        found = open_images(place, split)
        assert (len(found), found.class_names) == (count, ("cat", "dog"))
        assert known_as(found) == known_as(open_images(data, split))
    assert stat.S_IMODE(place.stat().st_mode) & 0o077 == 0
    assert run(["data", str(data), "--to", to, str(place)]) == 2  # it is there


def test_a_conversion_keeps_what_was_chosen(tmp_path: Path) -> None:
    data, out = two_splits(tmp_path / "data"), tmp_path / "out"
    assert run(["data", str(data), "--to", "parquet", str(out), "--size", "4", "--channels", "1"]) == 0
    assert open_images(out).shape == (1, 4, 4)


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        ("zip", "x", "no format 'zip'"),
        ("npz", "x", r"must be called *.npz"),
        ("folder", "taken", "not empty"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, to: str, out: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = two_splits(tmp_path / "data")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a").touch()
    assert run(["data", str(data), "--to", to, str(tmp_path / out)]) == 2
    assert message in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "taken"}


def test_a_data_set_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    data = two_splits(tmp_path / "data")
    (data / "test" / "cat" / "bad.png").write_bytes(b"")
    assert run(["data", str(data), "--to", "folder", str(tmp_path / "out")]) == 2
    assert {entry.name for entry in tmp_path.iterdir()} == {"data"}
    assert run(["data", str(data), "--to", "folder", str(tmp_path / "out"), "--skip-unreadable"]) == 0
    assert len(open_images(tmp_path / "out", "test")) == SPLITS["test"]


def test_nothing_is_written_where_the_split_to_show_is_not_there(tmp_path: Path) -> None:
    data = two_splits(tmp_path / "data")
    assert run(["data", str(data), "--split", "val", "--to", "folder", str(tmp_path / "out")]) == 2
    assert {entry.name for entry in tmp_path.iterdir()} == {"data"}


def test_a_sheet_has_a_row_for_each_class(tmp_path: Path) -> None:
    data, sheet = two_splits(tmp_path / "data"), tmp_path / "sheet.png"
    assert run(["data", str(data), "--sheet", str(sheet)]) == 0
    assert stat.S_IMODE(sheet.stat().st_mode) == 0o600
    assert sheet.read_bytes() == class_sheet(open_images(data), OF_A_CLASS)
    assert run(["data", str(data / "train" / "cat"), "--sheet", str(tmp_path / "cats.png")]) == 0


def test_options_are_named_as_at_the_interface_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = two_splits(tmp_path / "data")
    Image.fromarray(np.zeros((6, 5), dtype=np.uint8)).save(data / "train" / "cat" / "grey.png")
    (data / "train" / "dog" / "a.png").write_bytes(b"GIF89a")
    (data / "train" / "dog" / "b.png").write_bytes(b"")
    assert run(["data", str(data)]) == 2
    said = capsys.readouterr().err
    assert "leave them out with --skip-unreadable" in said
    assert "it is a GIF" in said
    assert run(["data", str(data), "--skip-unreadable"]) == 2
    assert "make all alike with --channels 1" in capsys.readouterr().err
    assert run(["data", str(data), "--skip-unreadable", "--channels", "1"]) == 0
    assert "left out 2 of the 10 images" in capsys.readouterr().err
