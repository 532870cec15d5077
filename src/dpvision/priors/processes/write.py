"""Images of random processes as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from dpvision.images.series import IMAGES_RECORD, Series
from dpvision.priors.processes import image_batches
from dpvision.privacy.errors import InputError

BATCH_SIZE = 64


def write_images(
    process: str,
    count: int,
    size: int,
    out: Path,
    seed: int,
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Write out/<process>/000000.png, 000001.png, …, and out/images.json, which says how they were made.

    They are the batches of :func:`image_batches` on the CPU, so that a run that was interrupted goes on where
    it ended, to the same images.

    Args:
        process: one of the names in `PROCESSES`.
        count: number of images, at least 1.
        size: their side in pixels, at least 16.
        out: the folder; made where it does not exist.
        seed: at least 0.
        on_batch: is told after every batch how many images there are.

    Raises:
        InputError: for arguments out of their range; if out holds anything but the beginning of these very
            images; or if it cannot be written.
    """
    record = {"process": process, "count": count, "size": size, "seed": seed, "version": version("dpvision")}
    series = Series(out, IMAGES_RECORD, record, {process: count})
    write_series(series, [process], size, seed, BATCH_SIZE, on_batch)


def write_series(
    series: Series,
    processes: Sequence[str],
    size: int,
    seed: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Complete a series of one folder with the batches of :func:`image_batches` on the CPU.

    Raises:
        InputError: as `write_images`.
    """
    ((folder, count),) = series.counts.items()
    if count < 1:
        raise InputError(f"the number of images must be at least 1, not {count}")
    image_batches(processes, size, seed, "cpu")  # refuses what is out of range before anything is written
    written = series.written()[folder]
    series.begin()
    batches = image_batches(processes, size, seed, "cpu", batch_size, first=written // batch_size)
    while written < count:
        for image in next(batches).numpy()[written % batch_size :][: count - written]:
            series.write(folder, written, image)
            written += 1
        if on_batch:
            on_batch(written)
