"""Reading takes little more memory than the pixels that are read, and unpacks nothing twice."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFile

from checks.fuzzing.watch import peak_bytes, reset_peak
from dpvision.api.sources import training_reading
from dpvision.images import Images, image_sizes, open_images
from dpvision.images.choices import Choices

MOST = 1.2
"""Times the pixels, at most."""

SIDE = 256
PICTURE = np.random.default_rng(0).integers(2, size=(SIDE, SIDE), dtype=np.uint8) * 9  # grey

OF_96_MIB: list[tuple[int, dict[str, Any]]] = [(1536, {}), (512, {"channels": 3}), (384, {"size": 2 * SIDE})]
"""Of pixels that are handed over: how many images, and how they are read."""

Write = Callable[[Path, int], Path]


def write_npz(folder: Path, count: int) -> Path:
    np.savez(folder / "x.npz", images=repeated(count), labels=labels_of(count))
    return folder / "x.npz"


def write_packed_npz(folder: Path, count: int) -> Path:
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in (("images", repeated(count)), ("labels", labels_of(count))):
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.asarray(array))
    return folder / "x.npz"


def write_fortran_npz(folder: Path, count: int) -> Path:
    np.savez(folder / "x.npz", images=np.asfortranarray(repeated(count)), labels=labels_of(count))
    return folder / "x.npz"


def write_idx(folder: Path, count: int, zipped: bool = False) -> Path:
    def write(kind: str, header: bytes, array: np.ndarray) -> None:
        path = folder / f"train-{kind}-ubyte{'.gz' if zipped else ''}"
        with gzip.open(path, "wb", compresslevel=1) if zipped else path.open("wb") as stream:
            stream.write(header)
            for row in array:
                stream.write(row.tobytes())

    write("images-idx3", struct.pack(">4I", 0x803, count, SIDE, SIDE), repeated(count))
    write("labels-idx1", struct.pack(">2I", 0x801, count), labels_of(count).astype(np.uint8))
    return folder


def write_idx_gz(folder: Path, count: int) -> Path:
    return write_idx(folder, count, zipped=True)


def write_parquet(folder: Path, count: int) -> Path:
    table = pa.table({"image": [{"bytes": png()}] * count, "label": labels_of(count)})
    pq.write_table(table, folder / "x.parquet", row_group_size=100, use_dictionary=False)
    return folder / "x.parquet"


def write_saved(folder: Path, count: int) -> Path:
    table = pa.table({"image": [{"bytes": png()}] * count, "label": labels_of(count)})
    with pa.ipc.new_stream(str(folder / "x.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=100)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_folder(folder: Path, count: int) -> Path:
    for label in ("0", "1"):
        (folder / label).mkdir()
    (folder / "0" / "0.png").write_bytes(png())
    for index in range(1, count):
        os.link(folder / "0" / "0.png", folder / str(index % 2) / f"{index}.png")
    return folder


def repeated(count: int) -> np.ndarray:
    return np.broadcast_to(PICTURE, (count, SIDE, SIDE))


def labels_of(count: int) -> np.ndarray:
    return np.arange(count) % 2


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "PNG")
    return stream.getvalue()


WRITERS = [
    write_npz,
    write_packed_npz,
    write_idx,
    write_idx_gz,
    write_parquet,
    write_saved,
    write_folder,
]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched by Linux's /proc")
@pytest.mark.parametrize(
    ("write", "count", "options"),
    [
        *((write, count, options) for write in WRITERS for count, options in OF_96_MIB),
        (write_fortran_npz, 1536, {}),
    ],
)
def test_peak(write: Write, count: int, options: dict[str, Any], tmp_path: Path) -> None:
    """Of reading, and of what is done with all images afterwards."""
    if write in (write_parquet, write_saved):
        count *= 2  # pyarrow keeps some 25 MiB, whatever the pixels
    path = write(tmp_path, count)
    before = reset_peak()
    images = open_images(path, **options)
    pixels = images.pixels.nbytes
    assert pixels >= 96 << 20
    # A file that is mapped counts as memory, though it needs none.
    mapped = (path / "x.arrow").stat().st_size if write is write_saved else 0
    assert peak_bytes() - before <= MOST * pixels + mapped
    before = reset_peak()
    assert len(images.digest) == 64
    assert images.with_classes(("1", "0")).shape == images.shape
    assert len(images.subset(torch.arange(1, count))) == count - 1
    assert sum(len(block) for block in images.blocks()) == count
    assert peak_bytes() - before <= 0.05 * pixels
    shutil.rmtree(tmp_path)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the bytes that come out of archives, and the images that are decoded."""
    seen: Counter[str] = Counter()

    def count(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def counted(self: Any, *arguments: Any) -> Any:
            found = original(self, *arguments)
            seen["bytes" if name == "read" else "images"] += len(found) if name == "read" else 1
            return found

        monkeypatch.setattr(owner, name, counted)

    count(zipfile.ZipExtFile, "read")
    count(gzip.GzipFile, "read")
    count(ImageFile.ImageFile, "load_prepare")
    return seen


@pytest.mark.parametrize("write", WRITERS)
def test_looking_for_the_sizes_unpacks_no_pixels(
    write: Write, tmp_path: Path, unpacked: Counter[str]
) -> None:
    path = write(tmp_path, 10)
    assert image_sizes(path) == {(SIDE, SIDE): 10}
    assert unpacked["images"] == 0
    assert unpacked["bytes"] < 2000


@pytest.mark.parametrize("write", WRITERS)
def test_a_run_decodes_every_image_once(write: Write, tmp_path: Path, unpacked: Counter[str]) -> None:
    path = write(tmp_path, 10)
    reading, size = training_reading(path, Choices(), keep_large=False)
    assert size == 64
    images = reading.open()
    assert isinstance(images, Images)
    assert unpacked["images"] == (10 if write in (write_parquet, write_saved, write_folder) else 0)
    assert unpacked["bytes"] < 10 * SIDE**2 + 2000


def test_images_without_labels_are_decoded_once(tmp_path: Path, unpacked: Counter[str]) -> None:
    pq.write_table(pa.table({"image": [{"bytes": png()}] * 3}), tmp_path / "x.parquet")
    assert len(open_images(tmp_path / "x.parquet", labelled=None)) == 3
    assert unpacked["images"] == 3
