"""What training on a data set beyond memory takes: resident memory, and time beside training from memory.

    python benchmarks/beyond_memory.py resident --gib 30 --real-gib 5
    python benchmarks/beyond_memory.py run --gib 30
    python benchmarks/beyond_memory.py steps
    python benchmarks/beyond_memory.py reading --mib 1024

``resident`` has the peak of resident memory of a process that takes Poisson batches, then all images in
blocks, from a store of so many GiB whose pixels are a sparse file, and of one that was read from a real file.
``run`` has the peak of two runs of ``dpvision train`` on so many GiB of IDX files, of images that differ: the
first reads them into a store, the second finds them there. ``steps`` has the median seconds of a step of
training from memory and from a store, by turns: with the pages of the store in the system's cache, and with
these emptied before each step. ``reading`` has the peak of reading each format into a store, beyond that of a
process that has read ten images of the same kind.

Everything is written below --work, and removed.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from unit_steps import stepper

from dpvision.cli.allocator import keep_freed_memory
from dpvision.cli.main import run as run_command
from dpvision.images import Images, ImageSet, cache_images
from dpvision.images.encode import encode_png
from dpvision.images.store_writing import write_beside_pixels
from dpvision.images.stored import PIXELS, Facts, StoredImages
from dpvision.networks import build_classifier
from dpvision.privacy import PoissonSampler, SecureRandom
from dpvision.views import SelfAugmentation

SHAPE = (3, 64, 64)
BATCH, BATCHES = 1024, 50
CLASSES = tuple(map(str, range(10)))


def peak_bytes() -> int:
    """Return the peak of this process's resident memory, by Linux."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) << 10


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def sparse_store(folder: Path, count: int) -> Facts:
    """Make a store of images whose pixels are a hole in a file, and whose identities are zeros."""
    folder.mkdir()
    with (folder / PIXELS).open("wb") as file:
        file.truncate(count * int(np.prod(SHAPE)))
    pixels = torch.from_numpy(np.memmap(folder / PIXELS, np.uint8, "r+", shape=(count, *SHAPE)))
    digests = torch.zeros(1, 64, dtype=torch.uint8).expand(count, 64)
    return write_beside_pixels(
        folder, Images(pixels, torch.arange(count) % len(CLASSES), CLASSES, "a sparse file", stored=digests)
    )


def idx_of(folder: Path, count: int, side: int) -> Path:
    """Write IDX files of random images."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    with (folder / "train-images-idx3-ubyte").open("wb") as file:
        file.write(struct.pack(">4I", 0x803, count, side, side))
        for first in range(0, count, 4096):
            file.write(random.bytes(min(4096, count - first) * side * side))
    labels = (np.arange(count) % len(CLASSES)).astype(np.uint8)
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
    return folder


def resident(folder: Path, facts: Facts | None) -> tuple[int, int, float]:
    """Return the peak of resident memory before images are taken, and afterwards; and the seconds of a batch.

    Args:
        folder: of a store with these facts, or of a data set that is in a store.
        facts: see above.
    """
    torch.set_num_threads(1)
    images: ImageSet = StoredImages(folder, facts, "a store") if facts else cache_images(folder)
    before, random, started = peak_bytes(), SecureRandom(), perf_counter()
    sampler = PoissonSampler(len(images), BATCH / len(images))
    for _ in range(BATCHES):
        images.take(sampler.sample(random))
    seconds = (perf_counter() - started) / BATCHES
    assert sum(map(len, images.blocks())) == len(images)
    return before, peak_bytes(), seconds


def compare_resident(work: Path, options: argparse.Namespace) -> None:
    count = int(options.gib * 2**30 / np.prod(SHAPE))
    facts = in_a_process(sparse_store, work / "sparse", count)
    show_resident(f"{options.gib:g} GiB, sparse: {count:,} images of 3×64×64", work / "sparse", facts)
    if options.real_gib:
        count = int(options.real_gib * 2**30 / 128**2)
        source = idx_of(work / "real", count, 128)
        reading = in_a_process(read, source)
        said = f"{options.real_gib:g} GiB, real: {count:,} images of 1×128×128"
        show_resident(said, source, None)
        print(f"{'':50} reading them into the store: peak {reading / 2**20:.0f} MiB")


def show_resident(what: str, folder: Path, facts: Facts | None) -> None:
    before, after, seconds = in_a_process(resident, folder, facts)
    print(
        f"{what:50} peak {after / 2**20:.0f} MiB, of which {before / 2**20:.0f} before any was taken; "
        f"{1000 * seconds:.1f} ms a batch of {BATCH}"
    )


def compare_runs(work: Path, options: argparse.Namespace) -> None:
    side = 112
    count = int(options.gib * 2**30 / side**2)
    source = distinct_idx_of(work / "set", count, side)
    for number, what in enumerate(("read and trained on", "trained on")):
        peak, seconds = in_a_process(whole_run, source, work / f"run-{number}", side, options.run_steps)
        print(
            f"{options.gib:g} GiB: {count:,} images of 1×{side}×{side}, {what:19} "
            f"peak {peak / 2**20:.0f} MiB, {seconds:.0f} s"
        )


def distinct_idx_of(folder: Path, count: int, side: int) -> Path:
    """Write IDX files of images of which each has its number somewhere, and is black elsewhere: sparse."""
    folder.mkdir()
    with (folder / "train-images-idx3-ubyte").open("wb") as file:
        file.write(struct.pack(">4i", 2051, count, side, side))
        file.truncate(16 + count * side**2)
        file.flush()
        for number in range(count):
            os.pwrite(file.fileno(), number.to_bytes(8), 16 + number * side**2 + side**2 // 2)
    labels = (np.arange(count) % len(CLASSES)).astype(np.uint8)
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())
    return folder


def whole_run(spec: Path, out: Path, side: int, steps: int) -> tuple[int, float]:
    """Train as the command does; return the peak of resident memory, and the seconds."""
    started = perf_counter()
    settings = {"network": "linear", "steps": steps, "expected_batch_size": 65_536}
    chosen = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = ["train", str(spec), "--size", str(side), "--epsilon", "2", "--method", "dp-sgd", *chosen]
    keep_freed_memory()
    with redirect_stdout(io.StringIO()):
        assert run_command([*command, "--out", str(out), "--json"]) == 0
    return peak_bytes(), perf_counter() - started


def read(spec: Path) -> int:
    """Read a data set into a store, and return the peak of resident memory."""
    torch.set_num_threads(1)
    cache_images(spec)
    return peak_bytes()


def compare_steps(work: Path, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    pixels = torch.randint(256, (options.count, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.arange(len(pixels)) % len(CLASSES), CLASSES, "random images")
    np.savez(work / "x.npz", images=pixels.numpy(), labels=images.labels.numpy())
    stored = cache_images(work / "x.npz")
    for network in ("linear", "tanh-cnn"):
        cases = [
            stepper(
                build_classifier(network, image_shape=(3, 32, 32), class_names=CLASSES),
                some,
                images.labels,
                SelfAugmentation(1),
                PoissonSampler(len(images), BATCH / len(images)),
                None,
                2 * options.steps,
            )
            for some in (images, stored)
        ]
        for cold in (False, True):
            seconds: list[list[float]] = [[], []]
            for _ in range(options.steps):
                for step, found in zip(cases, seconds, strict=True):
                    if cold:
                        empty_cache(stored.folder / PIXELS)
                    started = perf_counter()
                    step()
                    found.append(perf_counter() - started)
            memory, store = (median(found[2:]) for found in seconds)
            print(
                f"{network:9} batch {BATCH}, {'nothing' if cold else 'all'} in the cache: memory "
                f"{memory:.4f} s, store {store:.4f} s: {store / memory:.3f}"
            )


def empty_cache(file: Path) -> None:
    """Let the system forget what it has cached of a file."""
    descriptor = os.open(file, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def encoded(count: int, side: int) -> list[bytes]:
    """Return ten random images as PNGs, again and again."""
    pixels = np.random.default_rng(0).integers(256, size=(10, 3, side, side), dtype=np.uint8)
    few = [encode_png(image) for image in pixels]
    return [few[index % 10] for index in range(count)]


def folder_of(place: Path, count: int, side: int) -> Path:
    """Write class folders of hard links to ten files."""
    for name, content in zip(CLASSES, encoded(10, side), strict=True):
        (place / name).mkdir(parents=True)
        (place / name / "0.png").write_bytes(content)
    for index in range(1, count // 10):
        for name in CLASSES:
            os.link(place / name / "0.png", place / name / f"{index}.png")
    return place


def table_of(place: Path, count: int, side: int) -> Path:
    """Write a table of the files of such a folder."""
    folder_of(place / "files", count, side)
    rows = (f"files/{index % 10}/{index // 10}.png,{index % 10}\n" for index in range(count // 10 * 10))
    (place / "list.csv").write_text("path,label\n" + "".join(rows))
    return place / "list.csv"


def npz_of(place: Path, count: int, side: int) -> Path:
    place.mkdir()
    image = np.random.default_rng(0).integers(256, size=(side, side, 3), dtype=np.uint8)
    pixels = np.broadcast_to(image, (count, *image.shape))
    np.savez(place / "x.npz", images=pixels, labels=np.arange(count) % len(CLASSES))
    return place / "x.npz"


def parquet_of(place: Path, count: int, side: int) -> Path:
    place.mkdir()
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("label", pa.int64())])
    with pq.ParquetWriter(place / "x.parquet", schema, use_dictionary=False) as writer:
        for first in range(0, count, 1000):
            rows = [{"bytes": content} for content in encoded(min(1000, count - first), side)]
            writer.write_table(pa.table({"image": rows, "label": np.arange(len(rows)) % 10}, schema))
    return place / "x.parquet"


def cifar_of(place: Path, count: int, side: int) -> Path:
    """Write the five batches of CIFAR-10, of 32×32 pixels whatever the side, and at most 512 MiB each."""
    place.mkdir()
    for number in range(1, 6):
        rows = np.random.default_rng(number).integers(
            256, size=(min(count * side**2 // 1024, 870_000) // 5, 3073), dtype=np.uint8
        )
        rows[:, 0] %= 10
        (place / f"data_batch_{number}.bin").write_bytes(rows.tobytes())
    return place


FORMATS = {
    "folder": folder_of,
    "table": table_of,
    "npz": npz_of,
    "parquet": parquet_of,
    "idx": lambda place, count, side: idx_of(place, 3 * count, side),
    "cifar": cifar_of,
}
"""What writes a data set in each format, of so many images of 3×side×side."""


def compare_reading(work: Path, options: argparse.Namespace) -> None:
    side = options.side
    count = int(options.mib * 2**20 / (3 * side**2))
    for name in options.only or FORMATS:
        peaks = []
        for some in (50, count):
            source = FORMATS[name](work / f"{name}-{some}", some, side)
            peaks.append(in_a_process(read, source))
            shutil.rmtree(work / f"{name}-{some}")
            shutil.rmtree(work / "home")
        few, all_ = peaks
        beyond = all_ - few
        print(
            f"{name:8} {options.mib} MiB of pixels: peak {all_ / 2**20:.0f} MiB, {beyond / 2**20:.1f} MiB "
            f"more than of 50 images: {beyond / count:.0f} bytes an image"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["resident", "run", "steps", "reading"])
    parser.add_argument("--gib", type=float, default=30, help="of the sparse store, or the set of run")
    parser.add_argument("--run-steps", type=int, default=10, help="of a run")
    parser.add_argument("--real-gib", type=float, default=5, help="of the real one; 0 for none")
    parser.add_argument("--count", type=int, default=100_000, help="images of steps")
    parser.add_argument("--steps", type=int, default=20, help="of each, of which two are not counted")
    parser.add_argument("--mib", type=int, default=1024, help="pixels of each format")
    parser.add_argument("--side", type=int, default=64, help="of an image of these")
    parser.add_argument("--only", nargs="+", choices=[*FORMATS], help="formats")
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure; by default a new one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        os.environ["DPVISION_HOME"] = str(Path(work, "home"))
        compare = {
            "resident": compare_resident,
            "run": compare_runs,
            "steps": compare_steps,
            "reading": compare_reading,
        }
        compare[options.what](Path(work), options)


if __name__ == "__main__":
    main()
