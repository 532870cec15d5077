"""Train on synthetic images, test on real ones: what the synthetic images are worth to a classifier."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpvision.evaluation.accuracy import Accuracy
from dpvision.evaluation.benchmark_training import BENCHMARK_NETWORKS, BenchmarkTraining
from dpvision.evaluation.network_training import NetworkTraining, check_targets, train_network
from dpvision.evaluation.probabilities import log_probabilities
from dpvision.evaluation.resnet9_training import ResNet9Training
from dpvision.images import ImageSet
from dpvision.privacy.errors import InputError
from dpvision.runs.progress import Progress

ClassifierName = Literal["logistic", "mlp", "resnet9", "resnet110", "wrn-40-4", "resnext29"]

GROUPS: dict[str, tuple[ClassifierName, ...]] = {"dpimagebench": BENCHMARK_NETWORKS}
"""Classifiers that are asked for by one name, and whose mean accuracy is a figure of its own."""

LOGISTIC_ITERATIONS = 5000
"""Most iterations of L-BFGS, as in the evaluation published with DP-MERF, whose protocol DP-MEPF's tables
have. Scikit-learn's own default, 100, ends long before convergence on pixels.
"""

MLP_EPOCHS = 200
"""Most epochs of the perceptron: scikit-learn's default. Training ends earlier once the loss has fallen by
less than 1e-4 for ten epochs.
"""

NEGLIGIBLE = 0.01
"""The least probability of a class with which scikit-learn's classifiers learn that an image is of it."""

IMAGES_AT_A_TIME = 1000
LARGEST_GREY_SIDE = 28


def default_classifiers(shape: tuple[int, int, int]) -> tuple[ClassifierName, ...]:
    """Return the classifiers of DP-MEPF's tables (arXiv 2205.12900, section 6) for images of shape (C, H, W).

    These are ResNet-9, or for grey images of at most 28 pixels, as MNIST's, logistic regression and a
    perceptron.
    """
    channels, height, width = shape
    small_and_grey = channels == 1 and max(height, width) <= LARGEST_GREY_SIDE
    return ("logistic", "mlp") if small_and_grey else ("resnet9",)


def named_classifiers(names: Sequence[str]) -> tuple[ClassifierName, ...]:
    """Return the classifiers of these names, each once; a name may be that of :data:`GROUPS`.

    Raises:
        InputError: there is no such classifier.
    """
    found: dict[Any, None] = {}
    for name in names:
        _check_known(name, (*get_args(ClassifierName), *GROUPS))
        found |= dict.fromkeys(GROUPS.get(name, (name,)))
    return tuple(found)


def train_and_test(
    classifier: ClassifierName,
    synthetic: ImageSet,
    test: ImageSet,
    *,
    soft_labels: NDArray[np.float32] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    resnet9: ResNet9Training | None = None,
    benchmark: BenchmarkTraining | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """Train a classifier on all synthetic images, and on nothing else, and return its accuracy on real ones.

    "logistic" is scikit-learn's ``LogisticRegression`` and "mlp" its ``MLPClassifier`` (100 hidden units),
    both on flattened pixels in [0, 1] and with the library's default settings but for
    :data:`LOGISTIC_ITERATIONS`; a fit that reaches its limit counts as it is. "resnet9" is a network of
    :class:`ResNet9Training`, the others are those of :class:`BenchmarkTraining`.

    Args:
        classifier: as above.
        synthetic: labelled images to train on.
        test: labelled images of the same shape; classes are matched by name.
        soft_labels: probabilities of the synthetic images' classes ``[N, K]`` to learn in place of their
            labels: networks by the cross-entropy, the others from each image once for each class, with its
            probability, if that is at least :data:`NEGLIGIBLE`, as a weight.
        seed: the seed of all randomness, from 0 to 2³² − 1.
        device: for networks; the others are on the CPU.
        resnet9: how ResNet-9 is trained.
        benchmark: how those of DPImageBench are trained; the network that it names counts for nothing here.
        progress: see `Progress`.

    Raises:
        InputError: an unknown classifier, images without labels, of other shapes or classes, synthetic images
            of one class only, or images too small for ResNet-9.
    """
    right = classified_right(
        classifier,
        synthetic,
        test,
        soft_labels=soft_labels,
        seed=seed,
        device=device,
        resnet9=resnet9,
        benchmark=benchmark,
        progress=progress,
    )
    return Accuracy(int(right.sum()), len(right))


def classified_right(
    classifier: ClassifierName,
    synthetic: ImageSet,
    test: ImageSet,
    *,
    soft_labels: NDArray[np.float32] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    resnet9: ResNet9Training | None = None,
    benchmark: BenchmarkTraining | None = None,
    progress: Progress | None = None,
) -> NDArray[np.bool_]:
    """Return which real images are classified right, ``[N]``; all else is as in :func:`train_and_test`."""
    _check_known(classifier, get_args(ClassifierName))
    check_same_shape(synthetic, test)
    synthetic.check_trainable()
    test = test.with_classes(synthetic.class_names)
    assert test.labels is not None
    training = _training(classifier, resnet9, benchmark)
    targets = None if soft_labels is None else torch.from_numpy(soft_labels)
    if targets is not None:
        check_targets(targets, synthetic)
    if training is None:
        predicted = _scikit_learn_predictions(classifier, synthetic, soft_labels, test, seed, progress)
    else:
        model = train_network(
            synthetic, training, targets=targets, seed=seed, device=device, progress=progress
        )
        predicted = log_probabilities(model, test).argmax(dim=1).numpy()
    return np.asarray(predicted == test.labels.numpy())


def protocol(
    classifier: ClassifierName,
    resnet9: ResNet9Training | None = None,
    benchmark: BenchmarkTraining | None = None,
) -> str:
    """Describe in words how :func:`train_and_test` trains."""
    training = _training(classifier, resnet9, benchmark)
    if training is not None:
        return str(training)
    from sklearn import __version__

    if classifier == "logistic":
        learned = f"LogisticRegression (C = 1, L-BFGS, at most {LOGISTIC_ITERATIONS} iterations)"
    else:
        learned = f"MLPClassifier (100 hidden units, Adam, at most {MLP_EPOCHS} epochs)"
    return f"scikit-learn {__version__}, {learned} on pixels in [0, 1]"


def _check_known(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise InputError(f"there is no classifier '{name}'; choose one of {', '.join(known)}")


def _training(
    classifier: ClassifierName, resnet9: ResNet9Training | None, benchmark: BenchmarkTraining | None
) -> NetworkTraining | None:
    """Return how a classifier is trained, or None for those of scikit-learn."""
    if classifier == "resnet9":
        return resnet9 or ResNet9Training()
    if classifier == "logistic" or classifier == "mlp":
        return None
    return replace(benchmark or BenchmarkTraining(), network=classifier)


def check_same_shape(synthetic: ImageSet, real: ImageSet) -> None:
    """Raise InputError unless the images of both sets have the same channels, height and width."""
    if synthetic.shape != real.shape:
        raise InputError(
            f"images of {synthetic.source} have shape {list(synthetic.shape)} and those of {real.source} "
            f"{list(real.shape)}; open both with the same size and channels"
        )


def _scikit_learn_predictions(
    classifier: ClassifierName,
    synthetic: ImageSet,
    soft_labels: NDArray[np.float32] | None,
    test: ImageSet,
    seed: int,
    progress: Progress | None,
) -> NDArray[np.int64]:
    from sklearn.exceptions import ConvergenceWarning  # here, since it takes seconds to import

    assert synthetic.labels is not None
    model = _scikit_learn_model(classifier, seed)
    if progress:
        progress(f"training {classifier}", 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the limits are part of the protocol
        pixels = np.concatenate([*map(_flat, synthetic.blocks())])
        if soft_labels is None:
            model.fit(pixels, synthetic.labels.numpy())
        else:
            images, classes = np.nonzero(_worth_learning(soft_labels, synthetic))
            model.fit(pixels[images], classes, sample_weight=soft_labels[images, classes])
    if progress:
        progress(f"training {classifier}", 1, 1)
    return np.concatenate([model.predict(_flat(pixels)) for pixels in test.blocks(IMAGES_AT_A_TIME)])


def _worth_learning(soft_labels: NDArray[np.float32], synthetic: ImageSet) -> NDArray[np.bool_]:
    """Say which classes scikit-learn's classifiers learn an image as, ``[N, K]``: its likeliest at least.
    InputError where it is the same one for all.
    """
    worth = soft_labels >= NEGLIGIBLE
    worth[np.arange(len(worth)), soft_labels.argmax(axis=1)] = True
    learned = np.flatnonzero(worth.any(axis=0))
    if len(learned) < 2:
        raise InputError(
            f"by their soft labels all images of {synthetic.source} are of class "
            f"'{synthetic.class_names[learned[0]]}'; a classifier needs at least two classes"
        )
    return worth


def _scikit_learn_model(classifier: ClassifierName, seed: int) -> Any:
    if classifier == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(max_iter=LOGISTIC_ITERATIONS)
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(max_iter=MLP_EPOCHS, random_state=seed)


def _flat(pixels: Tensor) -> NDArray[np.float32]:
    """Return uint8 ``[N, C, H, W]`` as ``[N, C·H·W]`` in [0, 1]."""
    return (pixels.flatten(1).float() / 255).numpy()
