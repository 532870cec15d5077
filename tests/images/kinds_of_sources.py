"""A small data set in every format that is read, with all that an image may have."""

from __future__ import annotations

import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COUNT, SIDE = 12, 12
PIXELS = np.random.default_rng(0).integers(256, size=(COUNT, SIDE, SIDE, 3), dtype=np.uint8)
PIXELS[1] = PIXELS[1, :, :, :1]  # grey in colour
LABELS = np.arange(COUNT) % 3
CLASSES = ("ant", "bee", "cow")


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)  # so that all have one size
    return stream.getvalue()


def folder(place: Path) -> Path:
    for index, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        (place / CLASSES[label]).mkdir(exist_ok=True)
        (place / CLASSES[label] / f"{index}.png").write_bytes(png(pixels))
    return place


def folder_with_units(place: Path) -> Path:
    folder(place)
    rows = [f"{file.relative_to(place)},patient {file.stem[-1]}" for file in files(place)]
    (place / "units.csv").write_text("\n".join(["path,patient", *rows]))
    return place


def folder_with_a_broken_file(place: Path) -> Path:
    folder(place)
    (place / "ant" / "3.png").write_bytes(b"no image")
    return place


def folder_of_16_bits(place: Path) -> Path:
    deep = np.random.default_rng(1).integers(0, 2**16, size=(COUNT, SIDE, SIDE), dtype=np.uint16)
    for index, (pixels, label) in enumerate(zip(deep, LABELS, strict=True)):
        (place / CLASSES[label]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / CLASSES[label] / f"{index}.png")
    return place


def released(place: Path) -> Path:
    """Write what a run of synthesize releases, as far as its images are read."""
    (place / "images" / "png").mkdir(parents=True)
    folder(place / "images" / "png")
    (place / "card.json").write_text(json.dumps({"generator": {"class_names": ["cow", "bee", "ant"]}}))
    (place / "config.json").write_text("{}")
    return place


def table(place: Path) -> Path:
    folder(place)
    rows = [f"{file.relative_to(place)},{file.parts[-2]},p{len(file.name)}" for file in files(place)]
    (place / "list.csv").write_text("\n".join(["path,label,patient", *rows]))
    return place / "list.csv"


def npz(place: Path) -> Path:
    np.savez(place / "x.npz", images=PIXELS, labels=LABELS, units=LABELS + 7)
    return place / "x.npz"


def fortran_npz(place: Path) -> Path:
    np.savez(place / "x.npz", images=np.asfortranarray(PIXELS), labels=LABELS)
    return place / "x.npz"


def unlabelled_npz(place: Path) -> Path:
    np.savez(place / "x.npz", images=PIXELS)
    return place / "x.npz"


def parquet(place: Path) -> Path:
    pq.write_table(rows(), place / "x.parquet")
    return place / "x.parquet"


def saved(place: Path) -> Path:
    with pa.ipc.new_stream(str(place / "x.arrow"), rows().schema) as stream:
        stream.write_table(rows())
    (place / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (place / "dataset_info.json").write_text("{}")
    return place


def idx(place: Path) -> Path:
    images, labels = struct.pack(">4I", 0x803, COUNT, SIDE, SIDE), struct.pack(">2I", 0x801, COUNT)
    (place / "train-images-idx3-ubyte").write_bytes(images + PIXELS[..., 0].tobytes())
    with gzip.open(place / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(labels + LABELS.astype(np.uint8).tobytes())
    return place


def cifar(place: Path) -> Path:
    batch = np.random.default_rng(2).integers(256, size=(2, 3 * 32 * 32 + 1), dtype=np.uint8)
    batch[:, 0] = [0, 1]
    for number in range(1, 6):
        batch[:, 1:] += np.uint8(number)
        (place / f"data_batch_{number}.bin").write_bytes(batch.tobytes())
    (place / "batches.meta.txt").write_text("ant\nbee\n")
    return place


def files(place: Path) -> list[Path]:
    return sorted(place.glob("*/*.png"))


def rows() -> pa.Table:
    return pa.table({"image": [{"bytes": png(pixels)} for pixels in PIXELS], "label": LABELS})
