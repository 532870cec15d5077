"""A data set in a store is the same as in memory, whatever it was read from, and no store is used that is not
whole, true and its owner's alone.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dpvision
from dpvision.images import ImageSet, cache_images, forget_images, open_images
from dpvision.images import opening as opening_module
from dpvision.images import pixel_file as pixel_file_module
from dpvision.images.files import physical_memory
from dpvision.images.pixel_file import FilePixels
from dpvision.images.store_files import save_array
from dpvision.images.stored import CLASSES, IDENTITIES, LABELS, LEFT_OUT, PIXELS, REASONS, StoredImages
from dpvision.images.texts import Texts
from dpvision.privacy.errors import InputError
from dpvision.privacy.image_index import default_index_folder
from tests.images import kinds_of_sources as sources

Write = Callable[[Path], Path]

CASES: list[tuple[Write, dict[str, Any]]] = [
    (sources.folder, {}),
    (sources.folder, {"size": 8, "channels": 1}),
    (sources.folder, {"labelled": None}),
    (sources.folder, {"labelled": False}),
    (sources.folder, {"classes": "cow,ant,bee"}),
    (sources.folder_with_units, {}),
    (sources.folder_with_units, {"unit": "image", "size": 30, "resize": "pad"}),
    (sources.folder_with_a_broken_file, {"skip_unreadable": True}),
    (sources.folder_with_a_broken_file, {"skip_unreadable": True, "size": 8}),
    (sources.released, {}),
    (sources.released, {"size": 8, "labelled": False}),
    (sources.folder_of_16_bits, {}),
    (sources.folder_of_16_bits, {"value_range": "0:40000"}),
    (sources.table, {}),
    (sources.table, {"size": 8}),
    (sources.npz, {}),
    (sources.npz, {"size": 8, "channels": 1}),
    (sources.fortran_npz, {}),
    (sources.fortran_npz, {"size": 8}),
    (sources.unlabelled_npz, {"labelled": None}),
    (sources.parquet, {}),
    (sources.parquet, {"size": 8}),
    (sources.saved, {}),
    (sources.idx, {}),
    (sources.idx, {"channels": 3}),
    (sources.cifar, {}),
    (sources.cifar, {"size": 8}),
    (lambda _: Path("bundled:digits"), {}),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return sources.folder(tmp_path / "source")


def stores() -> Path:
    return default_index_folder().with_name("stores")


def left() -> list[Path]:
    """The files of all stores."""
    return [file for file in stores().rglob("*") if file.is_file()]


def check_same(found: ImageSet, expected: ImageSet) -> None:
    assert isinstance(found, StoredImages)
    for name in ("shape", "class_names", "source", "converted", "left_out"):
        assert getattr(found, name) == getattr(expected, name)
    assert str(found) == str(expected)
    assert (found.digest, found.pixel_digest) == (expected.digest, expected.pixel_digest)
    assert torch.equal(found.identities, expected.identities)
    assert torch.equal(found.sketches, expected.sketches)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(torch.cat([*found.blocks(5)]), torch.cat([*expected.blocks()]))
    assert (found.names is None, found.labels is None) == (expected.names is None, expected.labels is None)
    if found.names is not None:
        assert tuple(found.names) == expected.names
    if found.labels is not None:
        assert torch.equal(found.labels, expected.labels)
    assert found.summary() == expected.summary()
    if found.units is not None:
        assert found.units.of_images == expected.units.of_images
        assert torch.equal(found.units.ids, expected.units.ids)


@pytest.mark.parametrize(("write", "choices"), CASES)
def test_it_is_the_same_as_in_memory(write: Write, choices: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path)
    expected = open_images(path, **choices)
    assert not isinstance(expected, StoredImages)
    check_same(cache_images(path, **choices), expected)
    check_same(open_images(path, **choices), expected)


def test_every_reader_is_tried(tmp_path: Path) -> None:
    tried = set()
    for number, (write, _) in enumerate(CASES):
        (tmp_path / str(number)).mkdir()
        path = write(tmp_path / str(number))
        tried.add(next(reader for reader in opening_module.READERS if reader.recognises(path)))
    assert tried == set(opening_module.READERS)


@pytest.mark.parametrize("write", [sources.folder, sources.npz])
def test_what_is_beyond_a_share_of_memory_goes_there_by_itself(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    expected = open_images(path)
    size = opening_module.SHARE * sources.PIXELS.nbytes
    monkeypatch.setattr(opening_module, "physical_memory", lambda: size)
    assert not isinstance(open_images(path), StoredImages)
    monkeypatch.setattr(opening_module, "physical_memory", lambda: size - 1)
    with caplog.at_level(logging.INFO, "dpvision"):
        found = open_images(path)
    check_same(found, expected)
    said = [message for message in caplog.messages if "store" in message]
    assert len(said) == 1
    assert f"dpvision data {path} --forget removes it" in said[0]
    assert str(stores()) in said[0]


def test_a_seed_trains_the_same_weights(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "epsilon": 2.0,
        "config": {"network": "linear", "steps": 5, "expected_batch_size": 300},
        "seed": 1,
    }
    kept = cache_images("bundled:digits")
    found = dpvision.train("bundled:digits", out=tmp_path / "from-a-store", **options)
    assert forget_images("bundled:digits").stores == 1
    expected = dpvision.train("bundled:digits", out=tmp_path / "from-memory", **options)
    assert kept.digest == open_images("bundled:digits").digest
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor)


@pytest.mark.parametrize("cached", [True, False])
def test_images_are_taken_in_any_order(source: Path, cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cached:  # as where the system does not say, or has none at hand
        monkeypatch.delattr(os, "RWF_NOWAIT", raising=False)
    expected, found = open_images(source), cache_images(source)
    for chosen in ([], [3], [0, 1, 2], [11, 10, 0, 1, 2, 2, 5], [*range(12)][::-1]):
        indices = torch.tensor(chosen, dtype=torch.int64)
        assert torch.equal(found.take(indices), expected.take(indices))
        assert found.subset(chosen).digest == expected.subset(chosen).digest if chosen else True
    parts = torch.arange(12).split(1)
    assert torch.equal(torch.cat([*found.take_each(parts)]), torch.cat([*expected.take_each(parts)]))
    with pytest.raises(IndexError):
        found.take(torch.tensor([12]))
    with pytest.raises(IndexError):
        found.take(torch.tensor([-1]))


def test_names_are_read_when_they_are_asked_for(source: Path) -> None:
    strange = source / "ant" / os.fsdecode(b"\xff\xe9 \xc3\xa9\n.png")
    strange.write_bytes((source / "ant" / "0.png").read_bytes())
    expected, found = open_images(source).names, cache_images(source).names
    assert found is not None
    assert expected is not None
    assert (list(found), found[3], found[-1], [*found[2:5]]) == (
        [*expected],
        expected[3],
        expected[-1],
        [*expected[2:5]],
    )
    assert expected[0] in found
    with pytest.raises(IndexError):
        found[len(expected)]
    some = cache_images(source).subset([4, 2]).names
    assert some is not None
    assert ([*some], len(some), some[-1], [*some[1:]]) == (
        [expected[4], expected[2]],
        2,
        expected[2],
        [expected[2]],
    )


def test_only_the_owner_may_read_it(source: Path) -> None:
    before = os.umask(0)
    try:
        folder = cache_images(source).folder
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == {0o600}
    for place in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def changed(source: Path, how: str) -> None:
    file = source / "bee" / "1.png"
    if how == "another image":
        file.write_bytes(sources.png(255 - sources.PIXELS[1]))
    elif how == "another, of the same size and time":
        before = file.stat()
        file.write_bytes(sources.png(np.ascontiguousarray(sources.PIXELS[1][:, ::-1])))
        assert file.stat().st_size == before.st_size
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "one more":
        (source / "bee" / "12.png").write_bytes(sources.png(sources.PIXELS[0] // 2))
    elif how == "one less":
        file.unlink()
    else:
        file.rename(source / "cow" / "1.png")


@pytest.mark.parametrize(
    "how",
    ["another image", "another, of the same size and time", "one more", "one less", "another class"],
)
def test_a_data_set_that_changed_is_read_anew(
    source: Path, how: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = cache_images(source)
    changed(source, how)
    with caplog.at_level(logging.INFO, "dpvision"):
        found = open_images(source)
    assert "has changed since it was read: it is read anew" in caplog.text
    forget_images(source)
    check_same(found, open_images(source))
    assert found.digest != old.digest
    assert len(torch.cat([*old.blocks()])) == 12  # whoever has it keeps it


def test_a_table_whose_files_changed_is_read_anew(tmp_path: Path) -> None:
    table = sources.table(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    elsewhere = tmp_path / "elsewhere" / "list.csv"
    elsewhere.write_text(table.read_text().replace("\n", f"\n{tmp_path}/"))
    old = cache_images(elsewhere)
    assert open_images(elsewhere).digest == old.digest
    (tmp_path / "ant" / "0.png").write_bytes(sources.png(255 - sources.PIXELS[0]))
    assert open_images(elsewhere).digest != old.digest


def test_a_data_set_that_changes_while_it_is_read_is_refused(source: Path) -> None:
    with pytest.raises(InputError, match="have changed while they were read; try again"):
        cache_images(source, told=lambda done, total: changed(source, "another image"))
    assert left() == []


@pytest.mark.parametrize("name", ["pixels", "identities", "labels.npy", "names.txt", "store.json"])
@pytest.mark.parametrize("damage", ["cut off", "missing", "changed"])
def test_a_store_that_was_damaged_is_made_anew(source: Path, name: str, damage: str) -> None:
    expected = open_images(source)
    file = cache_images(source).folder / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-1] if damage == "cut off" else b"?" + content[1:])
    found = cache_images(source)
    check_same(found, expected)


def test_a_store_that_is_cut_off_while_it_is_used_is_told(source: Path) -> None:
    found = cache_images(source)
    os.truncate(found.folder / "pixels", found.folder.joinpath("pixels").stat().st_size - 1)
    assert len(found.take(torch.tensor([0, 3]))) == 2
    with pytest.raises(
        InputError, match="ends before its images do; remove it with dpvision data SPEC --forget"
    ):
        found.take(torch.tensor([11]))
    with pytest.raises(InputError, match="ends before its images do"):
        list(found.blocks())


@pytest.mark.parametrize("after", [0, 3, 9])
def test_a_full_disk_leaves_nothing(source: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write, done = os.pwrite, []

    def full(*arguments: Any) -> int:
        done.append(arguments)
        if len(done) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match=r"cannot be written: No space left on device; make room there"):
        cache_images(source)
    assert left() == []


def test_a_disk_without_room_is_told_before_anything_is_written(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_file_module, "free_bytes", lambda folder: sources.PIXELS.nbytes)
    monkeypatch.setattr(os, "pwrite", None)
    with pytest.raises(
        InputError, match="GiB left; make room, or set DPVISION_HOME to a folder on another disk"
    ):
        cache_images(source)
    assert left() == []


def test_files_that_cannot_be_read_leave_nothing(tmp_path: Path) -> None:
    path = sources.folder_with_a_broken_file(tmp_path)
    with pytest.raises(InputError, match=r"3\.png is not an image"):
        cache_images(path)
    assert left() == []


KILLED = """
import os, signal, sys
from dpvision.images import cache_images
size = int(sys.argv[2]) or None
cache_images(sys.argv[1], size=size, told=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
"""


def kill_while_it_is_made(source: Path, size: int = 0) -> None:
    command = [sys.executable, "-c", KILLED, str(source), str(size)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL


def test_what_a_killed_process_left_is_not_used(source: Path) -> None:
    kill_while_it_is_made(source)
    assert [file.name for file in left()] == ["pixels"]
    expected = open_images(source)
    assert not isinstance(expected, StoredImages)
    check_same(cache_images(source), expected)
    whole = left()
    kill_while_it_is_made(source, size=8)
    assert len(left()) == len(whole) + 1
    cache_images(source, size=4)
    assert len(left()) == 2 * len(whole)
    kill_while_it_is_made(source, size=8)
    assert forget_images(source).stores == 2
    assert left() == []


MAKING = """
import logging, sys, time
from dpvision.images import cache_images
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
print(cache_images(sys.argv[1], told=lambda done, total: time.sleep(3)).digest, flush=True)
"""


def test_two_processes_make_one(source: Path) -> None:
    expected = open_images(source)
    command = [sys.executable, "-c", MAKING, str(source)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    while not left():
        time.sleep(0.01)
    with pytest.raises(InputError, match=r"another process is making a store of .*; end that first"):
        forget_images(source)
    said = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [lines[-1] for lines in said] == [expected.digest] * 2
    assert sum("is read into a store" in line for lines in said for line in lines) == 1
    assert sum("waiting for it" in line for lines in said for line in lines) == 1
    check_same(open_images(source), expected)


def test_forgetting_removes_all_stores_of_a_data_set_and_no_other(source: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = sources.npz(tmp_path / "other")
    kept, first = cache_images(other), cache_images(source)
    cache_images(source, size=8)
    cache_images(source, labelled=False)
    sizes = sum(file.stat().st_size for file in left()) - kept.num_bytes
    found = forget_images(f"{source.parent}/./source/")
    assert (found.stores, found.bytes) == (3, sizes)
    assert isinstance(open_images(other), StoredImages)
    assert not isinstance(open_images(source), StoredImages)
    assert len(first.take(torch.arange(12))) == 12  # whoever uses it keeps it
    assert forget_images(source).bytes == 0
    size = kept.num_bytes
    other.unlink()
    assert forget_images(other).bytes == size > 0
    assert left() == []


GIB_30 = 30 << 30

TAKING = """
import sys
from pathlib import Path
import torch
from checks.fuzzing.watch import peak_bytes
from dpvision.images.stored import Facts, StoredImages
count = int(sys.argv[2])
images = StoredImages(Path(sys.argv[1]), Facts(count, (3, 64, 64), True, False, None, False, ""), "sparse")
generator = torch.Generator().manual_seed(0)
for _ in range(5):
    batch = torch.rand(count, generator=generator) < 1024 / count
    assert not images.take(batch.nonzero().squeeze(1)).any()
for block, _ in zip(images.take_each(torch.arange(count).split(4096)), range(10)):
    assert len(block) == 4096
print(peak_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched by Linux's /proc")
def test_a_store_of_30_gib_takes_little_memory(tmp_path: Path) -> None:
    size = 3 * 64 * 64
    count = GIB_30 // size
    with (tmp_path / PIXELS).open("wb") as file:
        file.truncate(count * size)
    (tmp_path / IDENTITIES).touch()
    save_array(tmp_path / LABELS, np.zeros(count, dtype=np.int64))
    for name in (CLASSES, LEFT_OUT, REASONS):
        Texts.save(tmp_path, name, ["one"] if name == CLASSES else [])
    command = [sys.executable, "-c", TAKING, str(tmp_path), str(count)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(finished.stdout) < 2**30  # most of it is torch


def test_more_pixels_than_there_is_memory_can_be_handed_over(tmp_path: Path) -> None:
    shape = (3, 2**13, 2**13)
    count = 4 * physical_memory() // int(np.prod(shape))
    pixels = FilePixels(tmp_path / "pixels", count, shape, lambda done, total: None)
    pixels.put(count - 1, np.full((1, *shape), 7, dtype=np.uint8))
    found = pixels.tensor()
    assert found.shape == (count, *shape)
    assert (found[-1, 0, 0] == 7).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_where_no_store_may_be_looked_for_images_are_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    monkeypatch.setenv("DPVISION_HOME", str(locked / "home"))
    assert len(open_images(source)) == 12
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        cache_images(source)
