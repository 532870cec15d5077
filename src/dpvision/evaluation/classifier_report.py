"""The figures of a classifier: a record that can be read and written, and which of them may be published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpvision.evaluation.accuracy import Accuracy
from dpvision.evaluation.calibration import BINS
from dpvision.evaluation.intervals import proportion_interval

OF_ALL_IMAGES = ("accuracy", "majority", "balanced_accuracy", "auc", "calibration_error", "log_loss")
OF_FEW_IMAGES = ("at_threshold", "by_class", "confusion", "reliability", "roc")
"""The names of figures by how many images each is of."""

PUBLISHING: Mapping[str, Any] = {
    "covered_by_the_guarantee": [],
    "in_a_release": ["accuracy"],
    "if_the_images_may_be_published": [*OF_ALL_IMAGES, *OF_FEW_IMAGES],
    "tell_of_single_images": [*OF_FEW_IMAGES],
}
"""Which figures may be published: of private images none, for they are exact. A release has the accuracy on
test images, which are refused if they are known to be private.
"""


@dataclass(frozen=True)
class Measured:
    """A figure of a classifier.

    Attributes:
        value: the figure; None where it is not defined, as the recall of a class without images.
        interval: its 95 % confidence interval, which contains the value; None where there is none.
        total: the number of images that the figure is of.
    """

    value: float | None
    interval: tuple[float, float] | None
    total: int

    @classmethod
    def share(cls, part: int, total: int) -> Measured:
        """Return a share of so many images, with the exact interval of Clopper and Pearson."""
        if total == 0:
            return cls(None, None, 0)
        return cls(part / total, proportion_interval(part, total), total)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        interval = None if self.interval is None else list(self.interval)
        return {"value": self.value, "interval_95": interval, "total": self.total}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Measured:
        """Read what `to_json` wrote."""
        interval = fields["interval_95"]
        return cls(fields["value"], interval and (interval[0], interval[1]), fields["total"])


@dataclass(frozen=True)
class OfClass:
    """The figures of one class against the rest.

    Attributes:
        name: the name of the class.
        recall: the share that were given the class, of the images that are of it: its sensitivity.
        precision: the share that are of the class, of the images that were given it.
        specificity: the share that were not given the class, of the images that are not of it.
        auc: the area under the ROC curve of its probability.
    """

    name: str
    recall: Measured
    precision: Measured
    specificity: Measured
    auc: Measured


@dataclass(frozen=True)
class AtThreshold:
    """Sensitivity and specificity where images are taken for positive by the probability of one class.

    Attributes:
        positive: the name of that class.
        threshold: its least probability.
        sensitivity: the share that are taken for positive, of the images that are.
        specificity: the share that are not, of the images that are not.
    """

    positive: str
    threshold: float
    sensitivity: Measured
    specificity: Measured


@dataclass(frozen=True)
class ClassifierReport:
    """The figures of a classifier on labelled images.

    All intervals are of 95 %. They account for the finite number of images, not for the randomness of
    training. Those of shares are exact (Clopper and Pearson); those of balanced accuracy and AUC are of
    :func:`bounded_interval`; those of the calibration error (:func:`calibration_error`) and the log loss
    (:func:`skewed_mean_interval`) are bootstrapped, with a fixed seed. The images are not covered by the
    classifier's guarantee: see `PUBLISHING`.

    Attributes:
        accuracy: the share of images that are classified right.
        majority_class, majority: the commonest class of these images, and its share: what always to say that
            class would have right.
        balanced_accuracy: the mean recall of the classes that have images.
        auc: the area under the ROC curve, for two classes; for more, the mean over classes of the area of one
            against the rest, of those that have images.
        calibration_error: the expected calibration error; of few images it is too large.
        log_loss: the mean negative log-likelihood, in nats.
        at_threshold: sensitivity and specificity; None for more than two classes, unless one was named.
        by_class: the figures of each class, in the order of the classifier's.
        confusion: how many images of each class (first index) were given each (second index).
        reliability: see :func:`dpvision.evaluation.calibration.reliability`; empty where the output for some
            image is no finite number.
        roc: of two classes, the curve of the second (:func:`dpvision.evaluation.roc.curve`): pairs of false-
            and true-positive rates. Empty where there is none.
    """

    accuracy: Accuracy
    majority_class: str
    majority: Measured
    balanced_accuracy: Measured
    auc: Measured
    calibration_error: Measured
    log_loss: Measured
    at_threshold: AtThreshold | None
    by_class: tuple[OfClass, ...]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[tuple[float, int, int], ...] = ()
    roc: tuple[tuple[float, float], ...] = ()

    @property
    def total(self) -> int:
        """The number of images."""
        return self.accuracy.total

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not defined on these images, and why."""
        found = []
        for one in self.by_class:
            if one.recall.total == 0:
                found.append(
                    f"no image is of class '{one.name}': its recall and AUC are not defined, and balanced "
                    "accuracy and AUC leave it out"
                )
            if one.precision.total == 0:
                found.append(f"no image was given class '{one.name}': its precision is not defined")
        if self.log_loss.value is None:
            found.append(
                "the classifier's output for some image is no finite number: AUC, calibration error and "
                "log loss are not defined"
            )
        elif self.auc.value is None:
            found.append(f"all images are of class '{self.majority_class}': AUC is not defined")
        if self.total == 1:
            found.append("there is one image only: log loss has no interval")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON types, with `notes` and `PUBLISHING`. What is not defined is null."""
        at = self.at_threshold
        correct = {"correct": self.accuracy.correct}
        return {
            "total": self.total,
            "classes": [one.name for one in self.by_class],
            "accuracy": Measured.share(self.accuracy.correct, self.total).to_json() | correct,
            "majority": {"class": self.majority_class} | self.majority.to_json(),
            "balanced_accuracy": self.balanced_accuracy.to_json(),
            "auc": self.auc.to_json(),
            "calibration_error": self.calibration_error.to_json() | {"bins": BINS},
            "log_loss": self.log_loss.to_json(),
            "at_threshold": at and {name: _json(value) for name, value in vars(at).items()},
            "by_class": [{name: _json(value) for name, value in vars(one).items()} for one in self.by_class],
            **{
                name: [list(row) for row in getattr(self, name)]
                for name in ("confusion", "reliability", "roc")
            },
            "notes": list(self.notes),
            "publishing": dict(PUBLISHING),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ClassifierReport:
        """Read what `to_json` wrote.

        Raises:
            KeyError, TypeError: it is something else.
        """
        at = fields["at_threshold"]
        return cls(
            accuracy=Accuracy(fields["accuracy"]["correct"], fields["accuracy"]["total"]),
            majority_class=fields["majority"]["class"],
            majority=Measured.from_json(fields["majority"]),
            balanced_accuracy=Measured.from_json(fields["balanced_accuracy"]),
            auc=Measured.from_json(fields["auc"]),
            calibration_error=Measured.from_json(fields["calibration_error"]),
            log_loss=Measured.from_json(fields["log_loss"]),
            at_threshold=at and AtThreshold(**{name: _read(value) for name, value in at.items()}),
            by_class=tuple(
                OfClass(**{name: _read(value) for name, value in one.items()}) for one in fields["by_class"]
            ),
            confusion=tuple(tuple(row) for row in fields["confusion"]),
            reliability=tuple((row[0], row[1], row[2]) for row in fields["reliability"]),
            roc=tuple((row[0], row[1]) for row in fields["roc"]),
        )


def _json(value: Any) -> Any:
    return value.to_json() if isinstance(value, Measured) else value


def _read(value: Any) -> Any:
    return Measured.from_json(value) if isinstance(value, dict) else value
