"""Make more images by a generator that a run released, at no further cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from dpvision.api.devices import resolve_device
from dpvision.api.images_to_publish import to_publish
from dpvision.api.options import FinishOptions, check_seed
from dpvision.api.publishing import drawn
from dpvision.api.using import load_generator
from dpvision.images import Images
from dpvision.images.released import provenance_of
from dpvision.images.series import POOL_RECORD
from dpvision.images.write import Format, image_files
from dpvision.runs.files import json_bytes, write_folder
from dpvision.runs.places import check_free, find_release


def sample(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    count: int | None = None,
    class_counts: Mapping[str, int] | None = None,
    balanced: bool = False,
    format: Format = "png",
    seed: int | None = None,
) -> Images:
    """Make images by the generator that a run released, write them to a folder, and return them. They are as
    private as the release: however many there are, the private images pay nothing for them. A record beside
    them, pool.json, says what the release's guarantee is.

    Args:
        run: the directory of a run of `synthesize`, or its release directory.
        out: the folder, made here: of class folders for png; else images.npz or images.parquet is in it.
        count: how many images.
        class_counts: how many of which classes, by their names, in place of ``count``.
        balanced: as many images of every class, and not by the class sizes that were released with noise.
        format: what `synthesize` writes: png, npz or parquet.
        seed: the seed of the draws, for images that can be made again.

    Raises:
        InputError: the run released no generator, an option cannot be used, or ``out`` cannot be written.
    """
    check_free(out)
    check_seed(seed)
    given = FinishOptions(count=count, formats=(format,), balanced=balanced, class_counts=class_counts)
    given.check_counts()
    generator = load_generator(run).to(resolve_device(None))
    wanted = to_publish(given, generator.class_names, generator.image_shape, None, is_release=False)
    images, probabilities = drawn(generator, wanted, seed)
    kind = {"kind": "images that dpvision sample drew of a release", "count": len(images), "seed": seed}
    record = json_bytes({**provenance_of(find_release(run)), **kind})
    files = image_files(images, format, probabilities)
    write_folder(Path(out), {**files, POOL_RECORD: record}, mode=0o755)
    return images
