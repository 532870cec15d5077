"""Measure a classifier on labelled images: every figure, with its interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from dpvision.evaluation.accuracy import Accuracy
from dpvision.evaluation.calibration import calibration_error, reliability
from dpvision.evaluation.classifier_report import AtThreshold, ClassifierReport, Measured, OfClass
from dpvision.evaluation.intervals import bounded_interval, skewed_mean_interval
from dpvision.evaluation.probabilities import log_probabilities
from dpvision.evaluation.roc import area, area_interval, curve
from dpvision.images import ImageSet
from dpvision.images.text import listing
from dpvision.networks.classifier import Classifier
from dpvision.privacy.errors import InputError
from dpvision.runs.progress import Progress

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

THRESHOLD = 0.5

ROWS_AT_A_TIME = 2**14


def evaluate_classifier(
    model: Classifier,
    images: ImageSet,
    *,
    positive: str | None = None,
    threshold: float | None = None,
    progress: Progress | None = None,
) -> ClassifierReport:
    """Measure a classifier on labelled images, on the device of its parameters.

    Args:
        model: the classifier. The labels of the images are matched to its classes by name.
        images: the images, labelled.
        positive, threshold: as for :func:`classifier_report`.
        progress: see `Progress`.

    Raises:
        InputError: the images have no labels, or one of a class that the classifier does not know, or as
            :func:`classifier_report`.
    """
    images = images.with_classes(model.class_names)
    assert images.labels is not None
    found = log_probabilities(model, images, progress).numpy()
    return classifier_report(
        found, images.labels.cpu().numpy(), model.class_names, positive=positive, threshold=threshold
    )


def classifier_report(
    log_probabilities: Array,
    labels: Labels,
    class_names: tuple[str, ...],
    *,
    positive: str | None = None,
    threshold: float | None = None,
) -> ClassifierReport:
    """Compute every figure of a classifier of what it says of images.

    >>> says = np.log([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    >>> report = classifier_report(says, np.array([0, 0, 0, 1]), ("cat", "dog"))
    >>> report.accuracy.value, report.majority.value, round(report.balanced_accuracy.value, 3)
    (0.75, 0.75, 0.833)

    Args:
        log_probabilities: of the classes for each image, ``[N, classes]``, N at least 1. Where one is no
            finite number, as of a training that diverged, figures that are made of them are not defined.
        labels: the classes of the images, ``[N]``.
        class_names: the names of the classes.
        positive: the class whose sensitivity and specificity at a threshold are computed. By default the
            second of two classes, and none of more.
        threshold: its least probability, `THRESHOLD` by default.

    Raises:
        InputError: there is no such class, or the threshold is not from 0 to 1 or is of no class.
    """
    chosen = class_at_threshold(class_names, positive, threshold)
    count, classes = log_probabilities.shape
    given = log_probabilities.argmax(axis=1)
    confusion = np.bincount(labels * classes + given, minlength=classes**2).reshape(classes, classes)
    of_class, given_class, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    majority = int(of_class.argmax())
    none = Measured(None, None, count)
    auc, auc_of_class, error, loss = none, [none] * classes, none, none
    bins: list[tuple[float, int, int]] = []
    roc: list[tuple[float, float]] = []
    if np.isfinite(log_probabilities).all():
        auc, auc_of_class = _areas(log_probabilities, labels, of_class)
        confidences = np.exp(log_probabilities.max(axis=1))
        error = Measured(*calibration_error(confidences, given == labels), count)
        bins = reliability(confidences, given == labels)
        if classes == 2 and of_class.all():
            roc = curve(_log_odds(log_probabilities)[:, 1], labels == 1)
        loss = _log_loss(-np.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0])
    return ClassifierReport(
        accuracy=Accuracy(int(right.sum()), count),
        majority_class=class_names[majority],
        majority=Measured.share(int(of_class[majority]), count),
        balanced_accuracy=_mean_recall(right[of_class > 0], of_class[of_class > 0]),
        auc=auc,
        calibration_error=error,
        log_loss=loss,
        at_threshold=chosen and _at_threshold(chosen, log_probabilities, labels, class_names),
        by_class=tuple(
            OfClass(
                name,
                recall=Measured.share(int(right[k]), int(of_class[k])),
                precision=Measured.share(int(right[k]), int(given_class[k])),
                specificity=Measured.share(
                    count - int(of_class[k] + given_class[k] - right[k]), count - int(of_class[k])
                ),
                auc=auc_of_class[k],
            )
            for k, name in enumerate(class_names)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        reliability=tuple(bins),
        roc=tuple(roc),
    )


def class_at_threshold(
    class_names: tuple[str, ...], positive: str | None, threshold: float | None
) -> tuple[str, float] | None:
    """Decide which class to take for positive, and from which probability on; None for no class.

    Raises:
        InputError: there is no such class, or the threshold is not from 0 to 1 or is of no class.
    """
    if positive is None and len(class_names) == 2:
        positive = class_names[1]
    if positive is None and threshold is not None:
        raise InputError(
            f"a threshold for one of {len(class_names)} classes needs the positive class; name it"
        )
    if positive is not None and positive not in class_names:
        raise InputError(f"there is no class '{positive}' to be positive; choose from {listing(class_names)}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold must be from 0 to 1, not {threshold:g}")
    return None if positive is None else (positive, THRESHOLD if threshold is None else threshold)


def _at_threshold(
    chosen: tuple[str, float], log_probabilities: Array, labels: Labels, class_names: tuple[str, ...]
) -> AtThreshold:
    positive, threshold = chosen
    k = class_names.index(positive)
    members, taken = labels == k, np.exp(log_probabilities[:, k]) >= threshold
    return AtThreshold(
        positive,
        threshold,
        sensitivity=Measured.share(int((members & taken).sum()), int(members.sum())),
        specificity=Measured.share(int((~members & ~taken).sum()), int((~members).sum())),
    )


def _log_loss(losses: Array) -> Measured:
    """Compute the mean of losses, which are not negative; one alone has no interval."""
    value, count = float(losses.mean()), len(losses)
    if count < 2:
        return Measured(value, None, count)
    low, high = skewed_mean_interval(losses)
    return Measured(value, (max(0.0, low), high), count)


def _log_odds(log_probabilities: Array) -> Array:
    """Compute log p/(1 − p) of each class: in the order of p, but apart even where p is 1 to the last bit. It
    is done for some images at a time: on the way it takes several times its size.
    """
    odds = np.empty_like(log_probabilities)
    for begin in range(0, len(odds), ROWS_AT_A_TIME):
        some = slice(begin, begin + ROWS_AT_A_TIME)
        odds[some] = _log_odds_of_some(log_probabilities[some])
    return odds


def _log_odds_of_some(log_probabilities: Array) -> Array:
    likeliest = log_probabilities.argmax(axis=1)[:, None]
    others = log_probabilities.copy()
    np.put_along_axis(others, likeliest, -np.inf, axis=1)  # all others have p of 1/2 or less
    odds = others - np.log1p(-np.exp(others))
    own = np.take_along_axis(log_probabilities, likeliest, axis=1)
    np.put_along_axis(odds, likeliest, own - logsumexp(others, axis=1, keepdims=True), axis=1)
    return odds


def _mean_recall(right: Labels, of_class: Labels) -> Measured:
    """Compute the mean recall of classes that all have images."""
    recalls, classes = right / of_class, len(right)
    value = float(recalls.mean())
    # A single image does not show how much the images of its class differ; nor may it pass for all alike.
    variances = np.where(
        of_class > 1, recalls * (1 - recalls) / np.maximum(of_class - 1, 1), value * (1 - value)
    )
    worst = classes**2 / float((1 / of_class).sum())
    interval = bounded_interval(value, float(variances.sum()) / classes**2, worst)
    return Measured(value, interval, int(of_class.sum()))


def _areas(log_probabilities: Array, labels: Labels, of_class: Labels) -> tuple[Measured, list[Measured]]:
    """Compute the mean area under the ROC curves of classes that have images, and the area of each class."""
    count = len(labels)
    none = Measured(None, None, count)
    found, influences, values = [none] * len(of_class), np.zeros(count), []
    present = np.flatnonzero(of_class)
    if len(present) < 2:
        return none, found
    odds = _log_odds(log_probabilities)
    for k in present:
        value, influence = area(odds[:, k], labels == k)
        members = np.array([of_class[k], count - of_class[k]])
        found[k] = Measured(value, area_interval(value, influence, members), count)
        influences += influence / len(present)
        values.append(value)
    mean = float(np.mean(values))
    return Measured(mean, area_interval(mean, influences, of_class[present]), count), found
