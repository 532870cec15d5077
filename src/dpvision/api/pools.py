"""Make a pool of public images for DP-Mix_Diff: by a text-to-image model, or by random processes."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dpvision.api.devices import resolve_device
from dpvision.api.priors import fair_batch_size
from dpvision.images import image_sizes
from dpvision.images.conversion import Conversion
from dpvision.images.files import named
from dpvision.images.folder import check_folder_name
from dpvision.images.series import COMMAND, POOL_RECORD, Series
from dpvision.priors.processes.write import write_series
from dpvision.priors.text_to_image import TextToImage, import_diffusers
from dpvision.privacy import InputError
from dpvision.runs.progress import Progress
from dpvision.views.pool import pool_images, pool_provenance, pool_split

CLASS = "{class}"


def make_pool(
    model: str,
    class_names: Sequence[str],
    out: str | os.PathLike[str],
    *,
    prompt: str = f"a photo of a {CLASS}",
    per_class: int = 500,
    size: int | None = None,
    batch_size: int = 8,
    inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    device: str | None = None,
    command: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Make a labelled pool by a text-to-image model (DP-Mix_Diff, arXiv 2311.01295).

    It is written as out/<class>/000000.png, … and out/pool.json, the provenance. An interrupted run goes on
    where it ended, if it is called again likewise; the size of the batches and the device may differ.

    Args:
        model: a name or a folder, for :class:`dpvision.priors.text_to_image.TextToImage`.
        class_names: the class names of the private images, which are public.
        out: a new or an empty folder, or one that this function began.
        prompt: the prompt of every class, with "{class}" where its name goes; underscores in it become
            spaces.
        per_class: images of each class.
        size: their side in pixels, cut and scaled as by :func:`dpvision.open_images`; None for the model's.
        batch_size: images made at once.
        inference_steps, guidance_scale: those of the model; None for its defaults.
        seed: at least 0. With an image's class and number it decides all that is random about the image.
        device: as for `dpvision.train`.
        command: for the provenance.
        progress: see `Progress`.

    Raises:
        InputError: an argument cannot be used, diffusers or the model is not there, or out holds anything
            else or cannot be written.
    """
    _check_classes(class_names)
    if CLASS not in prompt:
        raise InputError(f"the prompt '{prompt}' does not say {CLASS}, where the name of the class goes")
    for name, value, least in (
        ("per_class", per_class, 1),
        ("batch_size", batch_size, 1),
        ("inference_steps", inference_steps, 1),
        ("seed", seed, 0),
    ):
        if value is not None and value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    if guidance_scale is not None and not 0 <= guidance_scale < math.inf:
        raise InputError(f"guidance_scale must be at least 0 and finite, not {guidance_scale}")
    conversion = Conversion(size)
    chosen = resolve_device(device)
    total = per_class * len(class_names)
    record = {
        "kind": "text-to-image",
        "model": named(model),
        "prompt": prompt,
        "classes": list(class_names),
        "per_class": per_class,
        "count": total,
        "size": size,
        "seed": seed,
        "inference_steps": inference_steps,
        "guidance_scale": guidance_scale,
        "versions": {"diffusers": import_diffusers().__version__, "dpvision": version("dpvision")},
        COMMAND: command,
    }
    series = Series(Path(out), POOL_RECORD, record, dict.fromkeys(class_names, per_class))
    written = series.written()
    done = sum(written.values())
    if done == total:
        return
    generate = TextToImage(model, chosen, inference_steps, guidance_scale)
    series.begin()
    for name in class_names:
        # A batch of which a part is written is made again whole: batches of other sizes round otherwise.
        for first in range(written[name] - written[name] % batch_size, per_class, batch_size):
            indices = range(first, min(first + batch_size, per_class))
            images = generate(
                prompt.replace(CLASS, name.replace("_", " ")),
                [image_seed(seed, name, index) for index in indices],
            )
            for index, image in zip(indices, images, strict=True):
                if index >= written[name]:
                    series.write(name, index, conversion.convert(image, f"image {index} of {name}"))
                    done += 1
            if progress:
                progress("images", done, total)


def make_process_pool(
    processes: Sequence[str],
    out: str | os.PathLike[str],
    *,
    count: int = 5000,
    size: int = 32,
    seed: int = 0,
    command: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Make a pool without labels of images of random processes, which show nobody and nothing.

    It is written as out/000000.png, … and out/pool.json, the provenance. An interrupted run goes on where it
    ended, if it is called again likewise.

    Args:
        processes: names in `dpvision.priors.PROCESSES`, which take turns.
        out: a new or an empty folder, or one that this function began.
        count: how many images, as many of every process but for a batch; at least one of each.
        size: their side in pixels, at least 16.
        seed: at least 0.
        command: for the provenance.
        progress: see `Progress`.

    Raises:
        InputError: an argument cannot be used, or out holds anything else or cannot be written.
    """
    record = {
        "kind": "random processes",
        "processes": list(processes),
        "count": count,
        "size": size,
        "seed": seed,
        "versions": {"dpvision": version("dpvision")},
        COMMAND: command,
    }
    write_series(
        Series(Path(out), POOL_RECORD, record, {".": count}),
        processes,
        size,
        seed,
        fair_batch_size(count, processes),
        on_batch=(lambda done: progress("images", done, count)) if progress else None,
    )


def describe_pool(spec: str | os.PathLike[str]) -> dict[str, Any]:
    """Describe the content of a pool, as JSON types.

    That is the number of images, their classes (None without labels) and sizes (width x height, as stored),
    and the pool's provenance.

    Raises:
        InputError: the pool cannot be read.
    """
    sizes = image_sizes(spec, pool_split(spec))
    # Images of any shapes can be read together at one, here for their classes alone.
    images = pool_images(spec, size=1, channels=3)
    classes = None
    if images.labels is not None:
        counts = Counter(images.labels.tolist())
        classes = {name: counts[index] for index, name in enumerate(images.class_names)}
    return {
        "images": len(images),
        "classes": classes,
        "sizes": {f"{width} x {height}": count for (width, height), count in sorted(sizes.items())},
        "provenance": pool_provenance(spec),
    }


def image_seed(seed: int, class_name: str, index: int) -> int:
    """Return a seed of its own for every image of a pool."""
    digest = hashlib.sha256(repr((seed, class_name, index)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # fits a signed integer


def _check_classes(class_names: Sequence[str]) -> None:
    """Raise InputError unless each class can be a folder of its own that is read again."""
    if not class_names:
        raise InputError("a pool needs the names of its classes; give at least one")
    for name in class_names:
        check_folder_name(name)
    if len(set(class_names)) < len(class_names):
        raise InputError("two classes of the pool have the same name; give each its own")
