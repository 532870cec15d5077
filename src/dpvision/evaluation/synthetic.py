"""Synthetic images against real ones: every figure, with its interval and protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dpvision.evaluation.downstream import (
    ClassifierName,
    check_same_shape,
    default_classifiers,
    protocol,
    train_and_test,
)
from dpvision.evaluation.features import image_features
from dpvision.evaluation.frechet import frechet_distance
from dpvision.evaluation.intervals import Figure
from dpvision.evaluation.kernel_distance import kernel_distance
from dpvision.evaluation.precision_recall import precision_recall
from dpvision.evaluation.resnet9_training import ResNet9Training
from dpvision.images import ImageSet
from dpvision.priors.encoders import Encoder
from dpvision.privacy.errors import InputError
from dpvision.runs.progress import Progress

MOST_IMAGES = 10_000
"""Most images of each set whose features are compared: as many as the test images of MNIST and CIFAR-10."""

NEIGHBOUR = 5


@dataclass(frozen=True)
class Row:
    """One line of a table; ``dataclasses.asdict`` makes it JSON.

    Attributes:
        name: what was measured.
        value: the figure. Accuracies, precision, recall and coverage are fractions.
        low, high: its 95 % confidence interval.
        how: the protocol.
        num_synthetic, num_real: how many images the figure is from.
    """

    name: str
    value: float
    low: float
    high: float
    how: str
    num_synthetic: int
    num_real: int


def evaluate_synthetic(
    synthetic: ImageSet,
    test: ImageSet,
    *,
    classifiers: Sequence[ClassifierName] | None = None,
    encoders: Sequence[Encoder] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
    resnet9: ResNet9Training | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Return the accuracy of each classifier (:func:`train_and_test`), then for each encoder the Fréchet
    distance, the kernel distance, precision, recall, density and coverage of its features.

    Classifiers see all images. Features are compared between as many images of each set, chosen at random: as
    many as there are of both, at most 10,000. With a few thousand features the Fréchet distance takes
    minutes, with ten times as many hours. On a CPU the same seed gives the same rows.

    Args:
        synthetic: the images, labelled if there are classifiers.
        test: real images of the same shape and classes, labelled likewise. The synthetic ones must not have
            been made from them: no budget covers what these figures say of them.
        classifiers: by default :func:`default_classifiers`, or none for synthetic images without labels.
        encoders: for images of that shape; none by default. They stay on the device.
        seed: the seed of all randomness, from 0 to 2³² − 1.
        device: the device to compute on.
        resnet9: how ResNet-9 is trained.
        progress: see `Progress`.

    Raises:
        InputError: nothing to measure, a seed out of range, other shapes or class names, too few images, or
            as the parts.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed must be from 0 to 2**32 - 1, not {seed}")
    if classifiers is None:
        classifiers = () if synthetic.labels is None else default_classifiers(synthetic.shape)
    if not classifiers and not encoders:
        raise InputError(
            f"there is nothing to measure of {synthetic.source}; give images with labels, or an encoder"
        )
    check_same_shape(synthetic, test)
    if classifiers and set(synthetic.class_names) != set(test.class_names):
        raise InputError(
            f"{synthetic.source} has classes {', '.join(synthetic.class_names) or 'none'}, and {test.source} "
            f"has {', '.join(test.class_names) or 'none'}; give both the same"
        )
    rows = []
    for name in classifiers:
        result = train_and_test(
            name, synthetic, test, seed=seed, device=device, resnet9=resnet9, progress=progress
        )
        figure = Figure(result.value, *result.interval, len(synthetic), result.total)
        how = f"trained on synthetic images, tested on real ones: {protocol(name, resnet9)}; seed {seed}"
        rows.append(_row(f"accuracy of {name}", figure, how))
    if encoders:
        count = min(len(synthetic), len(test), MOST_IMAGES)
        generator = torch.Generator().manual_seed(seed)
        some, others = (
            images.subset(torch.randperm(len(images), generator=generator)[:count])
            for images in (synthetic, test)
        )
        for encoder in encoders:
            rows += _distances(some, others, encoder, seed, device, progress)
    return rows


def _distances(
    synthetic: ImageSet,
    test: ImageSet,
    encoder: Encoder,
    seed: int,
    device: torch.device | str,
    progress: Progress | None,
) -> list[Row]:
    name = encoder.config["name"]
    x, y = (
        image_features(images, encoder, device=device, progress=progress).to(device)
        for images in (synthetic, test)
    )
    balls = f"balls to neighbour {NEIGHBOUR} in features by {name}"
    given = "interval given the balls"
    neighbours = precision_recall(x, y, k=NEIGHBOUR)
    return [
        _row(
            f"Fréchet distance ({name})",
            frechet_distance(x, y, seed=seed),
            f"of features by {name}; interval by a jackknife of 10 groups; seed {seed}",
        ),
        _row(
            f"kernel distance ({name})",
            kernel_distance(x, y, seed=seed),
            f"unbiased, cubic kernel, of features by {name}; interval over disjoint subsets; seed {seed}",
        ),
        _row(f"precision ({name})", neighbours.precision, f"synthetic images in real {balls}; {given}"),
        _row(f"recall ({name})", neighbours.recall, f"real images in synthetic {balls}; {given}"),
        _row(f"density ({name})", neighbours.density, f"synthetic images per real {balls}; {given}"),
        _row(f"coverage ({name})", neighbours.coverage, f"real {balls} with synthetic images; {given}"),
    ]


def _row(name: str, figure: Figure, how: str) -> Row:
    counts = f"{figure.num_synthetic} synthetic and {figure.num_real} real images"
    return Row(
        name,
        figure.value,
        figure.low,
        figure.high,
        f"{how}; {counts}",
        figure.num_synthetic,
        figure.num_real,
    )
