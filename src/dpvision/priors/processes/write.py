"""Images of a random process as PNG files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dpvision.images.atomic import replacing
from dpvision.priors.processes import image_batches
from dpvision.privacy.errors import InputError

RECORD = "images.json"
PARTIAL = ".partial"  # what a file is called until it is whole

BATCH_SIZE = 64


def write_images(
    process: str,
    count: int,
    size: int,
    out: Path,
    seed: int,
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Writes out/<process>/000000.png, 000001.png, …, and out/images.json, which says how they were made.

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
    if count < 1:
        raise InputError(f"the number of images must be at least 1, not {count}")
    image_batches([process], size, seed, "cpu")  # refuses what is out of range before anything is written
    record = {"process": process, "count": count, "size": size, "seed": seed, "version": version("dpvision")}
    folder = out / process
    try:
        _claim(out, record)
        folder.mkdir(exist_ok=True)
        written = _images_in(folder, count)
        batches = image_batches([process], size, seed, "cpu", BATCH_SIZE, first=written // BATCH_SIZE)
        while written < count:
            for image in next(batches)[written % BATCH_SIZE :][: count - written]:
                _write(folder / _name(written), _png(image))
                written += 1
            if on_batch:
                on_batch(written)
    except OSError as error:
        raise InputError(f"{error.filename or out} cannot be written: {error.strerror or error}") from error


def _claim(out: Path, record: dict[str, Any]) -> None:
    """Marks out as the folder of these images. Refuses one that is already something else."""
    out.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in out.iterdir()} - {PARTIAL}
    if not names:
        _write(out / RECORD, (json.dumps(record, indent=2) + "\n").encode())
        return
    if RECORD not in names:
        raise InputError(f"{out} holds something else ('{min(names)}'); give a new or an empty folder")
    try:
        found = json.loads((out / RECORD).read_bytes())
    except ValueError as error:
        raise InputError(f"{out / RECORD} is damaged ({error}); give another folder") from error
    if found != record:
        raise InputError(f"{out} holds images made with other settings ({found}); give another folder")
    if others := names - {RECORD, record["process"]}:
        raise InputError(f"{out} holds something else ('{min(others)}'); remove it, or give another folder")


def _images_in(folder: Path, count: int) -> int:
    """How many images there are. Refuses a folder with other files, or with gaps."""
    names = {entry.name for entry in folder.iterdir()} - {PARTIAL}
    expected = {_name(index) for index in range(min(len(names), count))}
    if unexpected := names - expected:
        raise InputError(f"{folder / min(unexpected)} is not one of the images to come; remove the folder")
    return len(names)


def _name(index: int) -> str:
    return f"{index:06d}.png"


def _png(image: Tensor) -> bytes:
    """uint8 ``[3, H, W]`` encoded."""
    content = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(content, "PNG")
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    """All partial files have one name, so that what a killed run left is known, and soon replaced."""
    with replacing(path, path.with_name(PARTIAL)) as partial:
        partial.write_bytes(content)
