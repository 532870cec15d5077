"""Measure the quality of the synthetic images that a run released."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpvision.api.devices import resolve_device
from dpvision.api.sources import Reading, Source, fitting_images
from dpvision.api.using import choices_of, load
from dpvision.evaluation import Row, evaluate_synthetic, nearest_neighbours, neighbours_sheet
from dpvision.evaluation.downstream import ClassifierName
from dpvision.evaluation.resnet9_training import ResNet9Training
from dpvision.images import ImageSet, open_images
from dpvision.images.files import reading
from dpvision.networks import WideResNet
from dpvision.networks.image_generator import ImageGenerator
from dpvision.priors import build_encoder
from dpvision.priors.encoders import Encoder
from dpvision.privacy.errors import InputError
from dpvision.runs import Progress, RunDirectory
from dpvision.runs.files import write_atomically
from dpvision.runs.places import find_release

DEFAULT_ENCODER = "wrn-10-4-small"
NEIGHBOURS = "neighbours.png"


def evaluate_images(
    run: str | os.PathLike[str],
    data: Source,
    split: str | None = None,
    *,
    encoder: str | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    classifiers: Sequence[ClassifierName] | None = None,
    resnet9: ResNet9Training | None = None,
    neighbours: bool = False,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
    **choices: Any,
) -> list[Row]:
    """Measure the synthetic images that a run released, see `dpvision.evaluation.evaluate_synthetic`.

    Args:
        run: a run's directory or release directory.
        data: real images that the synthetic ones were not made from: a spec or an `ImageSet`.
            No guarantee covers what the figures say of them.
        split: the split of the spec; by default "test", or all of data without splits.
        encoder, encoder_options: whose features are compared, see `dpvision.priors.build_encoder`; by default
            those of `wrn-10-4-small`, averaged over all positions.
        classifiers: the classifiers that learn from the synthetic images, by default those usual for images
            of this shape.
        resnet9: how that classifier is trained, if it is one of them.
        neighbours: also write RUN/private/neighbours.png, the private images that are nearest to some of the
            synthetic ones. Never publish it.
        choices: as for `dpvision.evaluate`.
        seed, device, progress: as in `evaluate_synthetic` and `dpvision.train`.

    Raises:
        InputError: the run, the images or an option cannot be used.
    """
    place = find_release(run)
    generator = load(place)
    if not isinstance(generator, ImageGenerator):
        raise InputError(f"{run} released a classifier and no images; give a run of dpvision synthesize")
    shape = generator.image_shape
    chosen = resolve_device(device)
    built = _encoder(shape, encoder, encoder_options)
    synthetic = _released_images(place, generator)
    test = fitting_images(
        data, split, shape, labelled=bool(synthetic.class_names), choices=choices_of(run, choices)
    )
    encoders = () if built is None else (built,)
    rows = evaluate_synthetic(
        synthetic,
        test,
        classifiers=classifiers,
        encoders=encoders,
        resnet9=resnet9,
        seed=seed,
        device=chosen,
        progress=progress,
    )
    if neighbours:
        if built is None:
            raise InputError("neighbours are found by features; name an encoder")
        _write_neighbours(run, synthetic, built, seed, str(chosen), progress)
    return rows


def _encoder(
    shape: tuple[int, int, int], name: str | None, options: Mapping[str, Any] | None
) -> Encoder | None:
    """Build the encoder of a name or the default one; None for the smallest images, which have no default."""
    if name is not None:
        return build_encoder(name, shape, **(options or {}))
    if options:
        raise InputError("options are for an encoder; name one")
    return (
        build_encoder(DEFAULT_ENCODER, shape, cells=1) if min(shape[1:]) >= WideResNet.SMALLEST_SIDE else None
    )


def _released_images(place: Path, generator: ImageGenerator) -> ImageSet:
    """Read the released images in the first format that there is; all hold the same images."""
    folder = place / "images"
    files = (folder / "parquet" / "images.parquet", folder / "npz" / "images.npz", folder / "png")
    found = [file for file in files if file.exists()]
    if not found:
        raise InputError(f"{folder} is missing; give a release that is complete")
    names = generator.class_names
    if not names:
        return open_images(found[0], labelled=False)
    if found[0].suffix == ".npz":  # there classes are numbers, in the generator's order
        return open_images(found[0], classes=names)
    return open_images(found[0]).with_classes(names)


def _write_neighbours(
    run: str | os.PathLike[str],
    synthetic: ImageSet,
    encoder: Encoder,
    seed: int,
    device: str,
    progress: Progress | None,
) -> None:
    directory = RunDirectory.open(run)
    with reading(f"{directory.path / 'config.json'}"):
        source = Reading.from_json(directory.config.get("data") or {"spec": None})
    if source.spec is None:
        raise InputError(f"{run} does not say where its private images are; give the run that read them")
    private = source.open(labelled=False)
    chosen, nearest = nearest_neighbours(
        synthetic, private, encoder, seed=seed, device=device, progress=progress
    )
    write_atomically(
        directory.private_path / NEIGHBOURS, neighbours_sheet(synthetic, private, chosen, nearest)
    )
