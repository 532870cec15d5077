from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpvision.priors.processes import image_batches
from dpvision.priors.processes.write import write_images
from dpvision.privacy.errors import InputError

PROCESS, COUNT, SIZE = "stylegan-random", 150, 16  # two whole batches of 64 and a part


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("complete") / "new" / "folder"
    write_images(PROCESS, COUNT, SIZE, out, seed=5)
    return out


def test_what_is_written(complete: Path) -> None:
    names = {f"{PROCESS}/{index:06d}.png" for index in range(COUNT)}
    assert set(contents(complete)) == {"images.json", *names}
    assert json.loads((complete / "images.json").read_text()) == {
        "process": PROCESS,
        "count": COUNT,
        "size": SIZE,
        "seed": 5,
        "version": version("dpvision"),
    }


def test_the_images_are_those_of_the_stream(complete: Path) -> None:
    stream = image_batches([PROCESS], SIZE, 5, "cpu")
    expected = np.concatenate([next(stream).numpy() for _ in range(3)])[:COUNT]
    for index in (0, 63, 64, COUNT - 1):
        found = np.asarray(Image.open(complete / PROCESS / f"{index:06d}.png"))
        np.testing.assert_array_equal(found, expected[index].transpose(1, 2, 0))


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    write_images(PROCESS, COUNT, SIZE, tmp_path, 5, told.append)
    assert told == [64, 128, 150]


def test_an_interrupted_run_goes_on(tmp_path: Path, complete: Path) -> None:
    def on_batch(written: int) -> None:
        if written == 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_images(PROCESS, COUNT, SIZE, tmp_path, 5, on_batch)
    for index in range(120, 128):  # as if it had been killed in the middle of a batch, while it wrote a file
        (tmp_path / PROCESS / f"{index:06d}.png").unlink()
    (tmp_path / PROCESS / ".partial").write_bytes(b"\x89PNG")
    oldest = tmp_path / PROCESS / "000000.png"
    before = oldest.stat().st_mtime_ns
    write_images(PROCESS, COUNT, SIZE, tmp_path, 5)
    assert contents(tmp_path) == contents(complete)
    assert oldest.stat().st_mtime_ns == before


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    write_images(PROCESS, 3, SIZE, tmp_path, 5)
    told: list[int] = []
    write_images(PROCESS, 3, SIZE, tmp_path, 5, told.append)
    assert told == []


def test_other_settings_are_refused(complete: Path) -> None:
    before = contents(complete)
    for process, count, size, seed in [
        ("fractals", COUNT, SIZE, 5),
        (PROCESS, COUNT + 1, SIZE, 5),
        (PROCESS, COUNT, SIZE + 1, 5),
        (PROCESS, COUNT, SIZE, 6),
    ]:
        with pytest.raises(InputError, match=r"made with other settings .*; give another folder"):
            write_images(process, count, size, complete, seed)
    assert contents(complete) == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds something else \('thesis.tex'\)"):
        write_images(PROCESS, 3, SIZE, tmp_path, 5)
    assert set(contents(tmp_path)) == {"thesis.tex"}


def test_strange_files_beside_the_images_are_refused(tmp_path: Path) -> None:
    write_images(PROCESS, 3, SIZE, tmp_path, 5)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"holds something else \('notes.txt'\)"):
        write_images(PROCESS, 3, SIZE, tmp_path, 5)
    (tmp_path / "notes.txt").rename(tmp_path / PROCESS / "000007.png")
    with pytest.raises(InputError, match=r"000007.png is not one of the images to come"):
        write_images(PROCESS, 3, SIZE, tmp_path, 5)


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    write_images(PROCESS, 3, SIZE, tmp_path, 5)
    (tmp_path / "images.json").write_text("{")
    with pytest.raises(InputError, match=r"images.json is damaged"):
        write_images(PROCESS, 3, SIZE, tmp_path, 5)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written"):
        write_images(PROCESS, 3, SIZE, tmp_path / "file", 5)


def test_bad_arguments_write_nothing(tmp_path: Path) -> None:
    for process, count, size, seed in [
        ("clouds", 3, 16, 0),
        (PROCESS, 0, 16, 0),
        (PROCESS, 3, 15, 0),
        (PROCESS, 3, 16, -1),
    ]:
        with pytest.raises(InputError):
            write_images(process, count, size, tmp_path / "out", seed)
    assert not (tmp_path / "out").exists()
