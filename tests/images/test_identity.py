"""The digest is the data set's, however it is stored and read; and the sizes that its images have."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dpvision.images import image_sizes, open_images

PIXELS = np.random.default_rng(0).integers(256, size=(6, 9, 7), dtype=np.uint8)  # grey, 7 wide and 9 high
LABELS = np.array([0, 0, 0, 1, 1, 1])


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_folder(path: Path) -> Path:
    for index, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (path / str(label)).mkdir(parents=True, exist_ok=True)
        (path / str(label) / f"{index}.png").write_bytes(png(pixels))
    return path


def write_npz(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), images=PIXELS, labels=LABELS)
    return path.with_suffix(".npz")


def write_idx(path: Path) -> Path:
    path.mkdir()
    images = struct.pack(">IIII", 0x803, *PIXELS.shape) + PIXELS.tobytes()
    (path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 6) + bytes(LABELS.tolist()))
    return path


def write_parquet(path: Path) -> Path:
    table = pa.table({"image": [{"bytes": png(pixels)} for pixels in PIXELS], "label": LABELS})
    pq.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("write", [write_folder, write_npz, write_idx, write_parquet])
def test_one_data_set_has_one_digest(write: object, tmp_path: Path) -> None:
    path = write(tmp_path / "data")  # type: ignore[operator]
    expected = open_images(write_npz(tmp_path / "expected")).digest
    for options in (
        {},
        {"size": 5},
        {"size": 12},
        {"channels": 3},
        {"channels": 1},
        {"size": 5, "channels": 3},
    ):
        assert open_images(path, **options).digest == expected
    assert open_images(path, size=5, labelled=False).digest != expected
    assert image_sizes(path) == {(7, 9): 6}


def test_changing_a_pixel_changes_the_digest_at_any_size(tmp_path: Path) -> None:
    before = open_images(write_folder(tmp_path), size=2).digest
    changed = PIXELS[4].copy()
    changed[0, 0] ^= 1
    (tmp_path / "1" / "4.png").write_bytes(png(changed))
    assert open_images(tmp_path, size=2).digest != before


def test_the_sizes_of_images_that_differ(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "1" / "4.png").write_bytes(png(PIXELS[4][:5]))
    assert image_sizes(tmp_path) == {(7, 9): 5, (7, 5): 1}
    assert image_sizes("bundled:digits", "test") == {(8, 8): 360}
