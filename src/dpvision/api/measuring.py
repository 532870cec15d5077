"""Measure the quality of the synthetic images that a run released."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from dpvision.api.devices import resolve_device
from dpvision.api.membership_inference import NOTICE
from dpvision.api.private_images import (
    claimed,
    private_images_of,
    refuse_those_of,
    without_private,
)
from dpvision.api.sources import Source, fitting_images
from dpvision.api.using import choices_of, load_generator
from dpvision.evaluation import (
    BenchmarkTraining,
    ClassifierName,
    NetworkTraining,
    ResNet9Training,
    Row,
    class_sheet,
    evaluate_copies,
    evaluate_synthetic,
    named_classifiers,
    nearest_neighbours,
    neighbours_sheet,
)
from dpvision.evaluation.benchmark_training import BENCHMARK_NETWORKS
from dpvision.evaluation.copies import check_comparable
from dpvision.evaluation.downstream import check_same_shape
from dpvision.evaluation.intervals import check_numpy_seed
from dpvision.evaluation.soft_labels import soft_labels
from dpvision.evaluation.synthetic import usual_classifiers
from dpvision.images import ImageSet, open_images
from dpvision.images.keywords import ChoiceKeywords
from dpvision.images.released import provenance_of, provenance_with
from dpvision.methods import check_settings
from dpvision.networks import WideResNet
from dpvision.networks.image_generator import ImageGenerator
from dpvision.priors import build_encoder
from dpvision.priors.encoders import Encoder
from dpvision.privacy.errors import InputError, named_option
from dpvision.runs import Progress, RunDirectory
from dpvision.runs.files import json_bytes, write_atomically
from dpvision.runs.places import find_release, is_run

DEFAULT_ENCODER = "wrn-10-4-small"
NEIGHBOURS = "neighbours.png"
SHEET = "evaluation.png"
REAL_IMAGES = "no guarantee covers what these figures say of the real images"
FIGURES = "evaluation.json"


def evaluate_images(
    run: str | os.PathLike[str],
    data: Source,
    split: str | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    encoder: str | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    classifiers: Sequence[str] | None = None,
    resnet9: ResNet9Training | None = None,
    benchmark: BenchmarkTraining | None = None,
    reference: bool = False,
    copies: bool = False,
    private: Source | None = None,
    neighbours: bool = False,
    sheet: bool = False,
    hard_labels: bool = False,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
    **choices: Unpack[ChoiceKeywords],
) -> list[Row]:
    """Measure the synthetic images that a run released, see `dpvision.evaluation.evaluate_synthetic`.

    Args:
        run: a run's directory or release directory.
        data: real images that the synthetic ones were not made from: a spec or an `ImageSet`.
            No guarantee covers what the figures say of them.
        split: the split of the spec; by default "test", or all of data without splits.
        images: the folder of images that `dpvision.sample` drew of the run, to measure in the place of those
            that it released.
        encoder, encoder_options: whose features are compared, see `dpvision.priors.build_encoder`; by default
            those of `wrn-10-4-small`, averaged over all positions.
        classifiers: the classifiers that learn from the synthetic images, by default those usual for images
            of this shape; "dpimagebench" stands for the three of that benchmark.
        resnet9, benchmark: how networks are trained, if they are among them.
        reference: also measure as many private images in the place of the synthetic ones.
        copies: also measure whether the synthetic images tell which images are private, see
            `dpvision.evaluation.evaluate_copies`.
        private: the private images, for a run that does not say where they are; by default those it says.
        neighbours: also write RUN/private/neighbours.png, the private images that are nearest to some of the
            synthetic ones.
        sheet: also write RUN/private/evaluation.png, synthetic images beside those of data, by class.
        hard_labels: let classifiers learn the one class of each image, also where the release has soft
            labels: probabilities of all.
        choices: as for `dpvision.evaluate`.
        seed, device, progress: as in `evaluate_synthetic` and `dpvision.train`.

    With reference or copies the figures are private: they are measured on the private images without noise.
    They are written to RUN/private/evaluation.json, too. Images of data that are private ones are left out
    then. Never publish any of what is written.

    Raises:
        InputError: the run, the images or an option cannot be used.
    """
    check_numpy_seed(seed)
    place = find_release(run)
    generator = load_generator(run)
    learners = None if classifiers is None else named_classifiers(classifiers)
    shape = generator.image_shape
    chosen = resolve_device(device)
    built = _encoder(shape, encoder, encoder_options)
    if neighbours and built is None:
        raise InputError("neighbours are found by features; name an encoder")
    if private is not None and not (reference or copies or neighbours):
        named = named_option("private")
        raise InputError(
            f"{named} is of use to reference, copies and neighbours; ask for one, or leave it out"
        )
    folder = RunDirectory.open(run).private_path if is_run(run) else None
    if folder is None and (neighbours or sheet):
        raise InputError(f"{run} has no folder private/ for a sheet of images; give the run's directory")
    synthetic = _images_of(place, images, generator)
    test = fitting_images(
        data, split, shape, labelled=bool(synthetic.class_names), choices=choices_of(run, choices)
    )
    refuse_those_of(run, test)
    of_run = None
    if reference or copies or neighbours:
        of_run = private_images_of(run, private, shape, generator.class_names)
    if of_run is not None and (reference or copies):
        test = without_private(test, of_run)
    if of_run is not None:
        check_same_shape(synthetic, of_run)
    if of_run is not None and copies:
        check_comparable(synthetic, of_run, test)
    if folder and sheet:
        write_atomically(folder / SHEET, class_sheet(synthetic, test, seed=seed))
    encoders = () if built is None else (built,)
    learners = usual_classifiers(synthetic) if learners is None else learners
    # To tell copies by pixels takes neither.
    rows = (
        []
        if copies and not (learners or encoders)
        else evaluate_synthetic(
            synthetic,
            test,
            soft_labels=None if hard_labels else soft_labels(generator.to(chosen), synthetic),
            classifiers=learners,
            encoders=encoders,
            reference=of_run if reference else None,
            resnet9=resnet9,
            benchmark=benchmark,
            seed=seed,
            device=chosen,
            progress=progress,
        )
    )
    if of_run is not None and copies:
        rows += evaluate_copies(
            synthetic,
            of_run,
            test,
            **claimed(place),
            encoders=encoders,
            seed=seed,
            device=chosen,
            progress=progress,
        )
    if folder and (reference or copies):
        write_atomically(folder / FIGURES, json_bytes({"notice": NOTICE, "rows": [*map(asdict, rows)]}))
    if folder and neighbours:
        assert built is not None
        assert of_run is not None
        nearest = nearest_neighbours(
            synthetic, of_run, built, seed=seed, device=str(chosen), progress=progress
        )
        write_atomically(folder / NEIGHBOURS, neighbours_sheet(synthetic, of_run, *nearest))
    return rows


def _images_of(release: Path, drawn: str | os.PathLike[str] | None, generator: ImageGenerator) -> ImageSet:
    """Return the images of a release, or those of a folder, which must have been drawn of it."""
    labelled = bool(generator.class_names)
    if drawn is None:
        return open_images(release, labelled=labelled)
    drawn_by = (provenance_with(drawn) or {}).get("generator")
    is_of_release = drawn_by == provenance_of(release)["generator"]
    images = open_images(drawn, labelled=labelled) if is_of_release else None
    if images is None or images.shape != generator.image_shape:
        raise InputError(
            f"{drawn} does not hold images that dpvision sample drew of {release}; give such, or leave it out"
        )
    return images.with_classes(generator.class_names) if labelled else images


def trainings(
    classifiers: Sequence[ClassifierName], settings: Mapping[str, Any]
) -> dict[str, NetworkTraining]:
    """Return how networks are trained, arguments of `evaluate_images`, with settings in place of defaults.

    Raises:
        InputError: none of the classifiers is a network, or a network of them has no such setting.
    """
    if not settings:
        return {}
    kinds: dict[str, type[NetworkTraining]] = {}
    if "resnet9" in classifiers:
        kinds["resnet9"] = ResNet9Training
    if set(classifiers) & set(BENCHMARK_NETWORKS):
        kinds["benchmark"] = BenchmarkTraining
    if not kinds:
        raise InputError(
            f"settings of training are for networks, and there is none among {', '.join(classifiers)}; leave "
            "them out, or name other classifiers"
        )
    if "network" in settings:
        raise InputError("the network is a classifier's own; name it among the classifiers, and leave it out")
    for kind in kinds.values():
        check_settings(kind, settings)
    return {name: kind(**settings) for name, kind in kinds.items()}


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
