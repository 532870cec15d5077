"""Rows in a file are those that a tensor would hold, are nobody else's to read, and need room on the disk."""

from __future__ import annotations

import gc
import os
import stat
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from checks.fuzzing.watch import peak_bytes, reset_peak
from dpvision.images import rows_on_disk
from dpvision.images.rows_on_disk import RowsOnDisk, kept_rows
from dpvision.privacy import InputError

COUNT, SIZE = 50, 3
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="by what Linux has in /proc and /dev")


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(COUNT, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def on_disk(rows: Tensor) -> RowsOnDisk:
    return RowsOnDisk(rows.split(7), COUNT, rows)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "indices", [[], [0], [49], [3, 4, 5], [5, 4, 3], [7, 7, 8, 0, 49, 48], list(range(COUNT))]
)
def test_they_are_taken_in_any_order(indices: list[int], rows: Tensor, on_disk: RowsOnDisk) -> None:
    assert torch.equal(on_disk.take(torch.tensor(indices, dtype=torch.int64)), rows[indices])


@pytest.mark.parametrize("size", [1, 7, COUNT, 2 * COUNT])
def test_they_split_as_a_tensor_does(size: int, rows: Tensor, on_disk: RowsOnDisk) -> None:
    assert len(on_disk) == COUNT
    assert (on_disk.shape, on_disk.device) == ((SIZE,), rows.device)
    for part, expected in zip(on_disk.split(size), rows.split(size), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize("type_", [torch.float64, torch.bfloat16, torch.int64])
def test_of_any_type(type_: torch.dtype, rows: Tensor) -> None:
    some = (100 * rows.T.contiguous().T).to(type_)  # columns lie together
    assert torch.equal(RowsOnDisk(some.split(7), COUNT, some).take(torch.arange(COUNT)), some)


@on_linux
def test_the_file_is_the_owners_has_no_name_and_goes_with_the_object(folder: Path, rows: Tensor) -> None:
    def open_files() -> int:
        return len(os.listdir("/dev/fd"))

    gc.collect()
    before = open_files()
    on_disk = RowsOnDisk(rows.split(7), COUNT, rows)
    status = os.fstat(on_disk._file.fileno())
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert (status.st_nlink, status.st_size) == (0, rows.nbytes)
    assert status.st_dev == folder.stat().st_dev
    assert list(folder.iterdir()) == []
    assert open_files() == before + 1
    del on_disk
    assert open_files() == before


def test_it_is_made_where_tmpdir_says_or_where_no_memory_stands_for_a_disk(
    folder: Path, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    def watched(dir: str) -> Any:
        places.append(dir)
        return (folder / "rows").open("w+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    for wanted in (str(folder), str(folder / "none"), ""):
        monkeypatch.setenv("TMPDIR", wanted)
        RowsOnDisk(rows.split(7), COUNT, rows)
    assert places == [str(folder), "/var/tmp", "/var/tmp"]


def test_without_room_nothing_is_written(folder: Path, rows: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(rows_on_disk.shutil, "disk_usage", lambda place: usage(0, 0, rows.nbytes - 1))
    with pytest.raises(InputError, match=r"features of all images take .* name another folder as TMPDIR"):
        RowsOnDisk(iter([]), COUNT, rows)
    monkeypatch.setattr(rows_on_disk.shutil, "disk_usage", lambda place: usage(0, 0, rows.nbytes))
    assert len(RowsOnDisk(rows.split(7), COUNT, rows)) == COUNT


@on_linux
def test_a_disk_that_fills_up_and_a_file_that_is_cut_off_are_said(rows: Tensor, on_disk: RowsOnDisk) -> None:
    os.ftruncate(on_disk._file.fileno(), rows.nbytes - 1)
    assert torch.equal(on_disk.take(torch.tensor([COUNT - 2])), rows[-2:-1])
    with pytest.raises(InputError, match=r"features in .* cannot be read: it ends too early"):
        on_disk.take(torch.tensor([COUNT - 1]))
    on_disk._file.close()
    on_disk._file = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(InputError, match=r"features in .* cannot be written: No space left on device"):
        on_disk._append(rows)
    os.close(on_disk._file.fileno())
    with pytest.raises(InputError, match=r"features in .* cannot be read: Bad file descriptor"):
        on_disk.take(torch.tensor([0]))


def test_only_what_is_large_for_the_memory_is_kept_in_a_file(
    rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    monkeypatch.setattr(rows_on_disk, "physical_memory", lambda: 4 * rows.nbytes)
    found = kept_rows(rows.split(20), COUNT, told.append)
    assert isinstance(found, Tensor)
    assert torch.equal(found, rows)
    monkeypatch.setattr(rows_on_disk, "physical_memory", lambda: 4 * rows.nbytes - 1)
    found = kept_rows(rows.split(20), COUNT, told.append)
    assert isinstance(found, RowsOnDisk)
    assert torch.equal(found.take(torch.arange(COUNT)), rows)
    assert told == [20, 40, 50] * 2


@on_linux
def test_few_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_on_disk, "physical_memory", lambda: 2**20)
    count, size = 64_000, 512  # 128 MiB
    before = reset_peak()
    found = kept_rows((torch.full((500, size), float(part)) for part in range(count // 500)), count)
    assert sum(float(some.mean()) * len(some) for some in found.split(1000)) == count * (count / 500 - 1) / 2
    assert float(found.take(torch.arange(0, count, 50)).double().mean()) == (count / 500 - 1) / 2
    assert peak_bytes() - before <= 16 * 2**20
