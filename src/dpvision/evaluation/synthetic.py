"""Synthetic images against real ones: every figure, with its interval and protocol."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dpvision.evaluation.benchmark_training import BENCHMARK_NETWORKS, BenchmarkTraining
from dpvision.evaluation.downstream import (
    ClassifierName,
    check_same_shape,
    classified_right,
    default_classifiers,
    protocol,
)
from dpvision.evaluation.features import features_in_words, image_features, names_of
from dpvision.evaluation.frechet import FEWEST, frechet_distance
from dpvision.evaluation.intervals import Figure, bounded_interval, check_numpy_seed, proportion_interval
from dpvision.evaluation.kernel_distance import kernel_distance
from dpvision.evaluation.precision_recall import precision_recall
from dpvision.evaluation.resnet9_training import ResNet9Training
from dpvision.evaluation.rows import Row
from dpvision.images import ImageSet
from dpvision.priors.encoders import Encoder
from dpvision.privacy.errors import InputError
from dpvision.runs.progress import Progress

logger = logging.getLogger("dpvision")

MOST_IMAGES = 10_000
"""Most images of each set whose features are compared: as many as the test images of MNIST and CIFAR-10."""

NEIGHBOUR = 5


@dataclass(frozen=True)
class _Measurement:
    """A figure, its name and how it was got."""

    name: str
    figure: Figure
    how: str


def evaluate_synthetic(
    synthetic: ImageSet,
    test: ImageSet,
    *,
    soft_labels: NDArray[np.float32] | None = None,
    classifiers: Sequence[ClassifierName] | None = None,
    encoders: Sequence[Encoder] = (),
    reference: ImageSet | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    resnet9: ResNet9Training | None = None,
    benchmark: BenchmarkTraining | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Return the accuracy of each classifier (:func:`train_and_test`), and the mean of those of DPImageBench
    if all three are among them; then for each encoder the Fréchet distance, the kernel distance, precision,
    recall, density and coverage of its features.

    Classifiers see all images. Features are compared between as many images of each set, chosen at random: as
    many as there are of all, at most 10,000. With a few thousand features the Fréchet distance takes
    minutes, with ten times as many hours. Distances need 20 images of each set, the others 6: of fewer they
    are left out. On a CPU the same seed gives the same rows.

    Args:
        synthetic: the images, labelled if there are classifiers.
        test: real images of the same shape and classes, labelled likewise. The synthetic ones must not have
            been made from them: no budget covers what these figures say of them.
        soft_labels: what classifiers learn in place of the labels of the synthetic images, see
            :func:`train_and_test`.
        classifiers: by default :func:`default_classifiers`, or none for synthetic images without labels or of
            one class only.
        encoders: for images of that shape; none by default. They stay on the device.
        reference: private images that the synthetic ones were made from. As many of them as there are
            synthetic ones, or all, are measured in their place too; the rows are then private.
        seed: the seed of all randomness, from 0 to 2³² − 1.
        device: the device to compute on.
        resnet9: how ResNet-9 is trained.
        benchmark: how the networks of DPImageBench are trained.
        progress: see `Progress`.

    Raises:
        InputError: nothing to measure, a seed out of range, other shapes or class names, too few images, or
            as the parts.
    """
    check_numpy_seed(seed)
    if classifiers is None:
        classifiers = usual_classifiers(synthetic)
    if not classifiers and not encoders:
        raise InputError(
            f"there is nothing to measure of {synthetic.source}; give images with labels, of two classes at "
            "least, or an encoder"
        )
    sets = [synthetic]
    if reference is not None:
        chosen = torch.randperm(len(reference), generator=torch.Generator().manual_seed(seed))
        sets.append(reference.subset(chosen[: len(synthetic)]))
    for images in sets:
        check_same_shape(images, test)
        if classifiers and set(images.class_names) != set(test.class_names):
            raise InputError(
                f"{images.source} has classes {', '.join(images.class_names) or 'none'}, and {test.source} "
                f"has {', '.join(test.class_names) or 'none'}; give both the same"
            )
        if classifiers:
            images.check_trainable()  # here, and not once others have learned for hours
    count = min(len(test), MOST_IMAGES, *map(len, sets))
    if encoders and count < FEWEST:
        logger.info(f"{count} images of each set are too few for distances of features, which need {FEWEST}")
    found = []
    for images in sets:
        measured = []
        if classifiers:
            soft = soft_labels if images is synthetic else None
            measured += _accuracies(
                classifiers, images, soft, test, seed, device, resnet9, benchmark, progress
            )
        for name, encoder in zip(names_of(encoders), encoders, strict=True):
            measured += _distances(name, images, test, encoder, count, seed, device, progress)
        found.append(measured)
    if not found[0]:
        raise InputError(
            f"there are too few images to compare features: {count} of each set, where at least "
            f"{NEIGHBOUR + 1} are needed"
        )
    beside = [None] * len(found[0]) if reference is None else [one.figure for one in found[1]]
    return [
        Row.of(one.name, one.figure, one.how, figure) for one, figure in zip(found[0], beside, strict=True)
    ]


def usual_classifiers(synthetic: ImageSet) -> tuple[ClassifierName, ...]:
    """Return which classifiers learn from images if nobody says it: none where there is one class at most."""
    if synthetic.labels is None:
        return ()
    if len(synthetic.labels.unique()) < 2:
        logger.info(f"{synthetic.source} has images of one class only: no classifier can learn from them")
        return ()
    return default_classifiers(synthetic.shape)


def _accuracies(
    classifiers: Sequence[ClassifierName],
    images: ImageSet,
    soft_labels: NDArray[np.float32] | None,
    test: ImageSet,
    seed: int,
    device: torch.device | str,
    resnet9: ResNet9Training | None,
    benchmark: BenchmarkTraining | None,
    progress: Progress | None,
) -> list[_Measurement]:
    what = "synthetic images" if soft_labels is None else "synthetic images and their soft labels"
    trained = f"trained on {what}, tested on real ones"
    right = {
        name: classified_right(
            name,
            images,
            test,
            soft_labels=soft_labels,
            seed=seed,
            device=device,
            resnet9=resnet9,
            benchmark=benchmark,
            progress=progress,
        )
        for name in classifiers
    }
    found = []
    for name, per_image in right.items():
        interval = proportion_interval(int(per_image.sum()), len(per_image))
        figure = Figure(float(per_image.mean()), *interval, len(images), len(test))
        how = f"{trained}: {protocol(name, resnet9, benchmark)}; seed {seed}"
        found.append(_Measurement(f"accuracy of {name}", figure, how))
    if right.keys() >= set(BENCHMARK_NETWORKS):
        figure = _mean_accuracy([right[name] for name in BENCHMARK_NETWORKS], len(images))
        named = f"accuracy, mean of {', '.join(BENCHMARK_NETWORKS)}"
        found.append(_Measurement(named, figure, f"{trained}; interval over images; seed {seed}"))
    return found


def _mean_accuracy(right: Sequence[NDArray[np.bool_]], num_synthetic: int) -> Figure:
    """Return the mean of classifiers' accuracies, by which of the same images each has right. Its interval is
    that of the mean over images of the share of classifiers that are right.
    """
    shares = np.mean(right, axis=0)
    count = len(shares)
    variance = float(shares.var(ddof=1)) / count if count > 1 else 0.25
    value = float(shares.mean())
    return Figure(value, *bounded_interval(value, variance, count), num_synthetic, count)


def _distances(
    name: str,
    images: ImageSet,
    test: ImageSet,
    encoder: Encoder,
    count: int,
    seed: int,
    device: torch.device | str,
    progress: Progress | None,
) -> list[_Measurement]:
    generator = torch.Generator().manual_seed(seed)
    x, y = (
        image_features(
            some.subset(torch.randperm(len(some), generator=generator)[:count]),
            encoder,
            device=device,
            progress=progress,
        ).to(device)
        for some in (images, test)
    )
    found, features = [], features_in_words(encoder)
    if count >= FEWEST:
        found += [
            _Measurement(
                f"Fréchet distance ({name})",
                frechet_distance(x, y, seed=seed),
                f"of {features}; interval by a jackknife of 10 groups; seed {seed}",
            ),
            _Measurement(
                f"kernel distance ({name})",
                kernel_distance(x, y, seed=seed),
                f"unbiased, cubic kernel, of {features}; interval over disjoint subsets; seed {seed}",
            ),
        ]
    if count <= NEIGHBOUR:
        return found
    balls = f"balls to neighbour {NEIGHBOUR} in {features}"
    given = "interval given the balls"
    near = precision_recall(x, y, k=NEIGHBOUR)
    return [
        *found,
        _Measurement(f"precision ({name})", near.precision, f"synthetic images in real {balls}; {given}"),
        _Measurement(f"recall ({name})", near.recall, f"real images in synthetic {balls}; {given}"),
        _Measurement(f"density ({name})", near.density, f"synthetic images per real {balls}; {given}"),
        _Measurement(f"coverage ({name})", near.coverage, f"real {balls} with synthetic images; {given}"),
    ]
