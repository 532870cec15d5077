"""The figures of a classifier, and of synthetic images, as people read them on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dpvision.cli.output import columns

if TYPE_CHECKING:
    from dpvision.evaluation import ClassifierReport, Measured, Reference, Row

MOST_CLASSES = 20
"""Most classes whose own figures are shown: of more, --json has them."""

NOT_COVERED = """\
No guarantee covers these figures, which are exact: of private images publish none. A release has one of them,
the accuracy on test images, which are refused if they are known to be private. Figures of a class, at a
threshold and in the confusion matrix may be of few images, and then tell of single ones."""


def summary(report: ClassifierReport) -> dict[str, object]:
    """Return the figures of all images together, as rows of a table."""
    from dpvision.evaluation.calibration import BINS

    two = len(report.by_class) == 2
    rows: dict[str, object] = {
        "accuracy": report.accuracy,
        f"  of always '{report.majority_class}'": _share(report.majority),
        "balanced accuracy": _share(report.balanced_accuracy),
        "AUC": _number(report.auc) + ("" if two else ", mean of one class against the rest"),
        "calibration error": f"{_number(report.calibration_error)}, in {BINS} bins; too large of few images",
        "log loss": f"{_number(report.log_loss)} nats",
    }
    at = report.at_threshold
    if at:
        taken = f"of '{at.positive}' from probability {at.threshold:g}"
        rows["sensitivity"] = f"{_share(at.sensitivity)} {taken}"
        rows["specificity"] = f"{_share(at.specificity)} {taken}"
    return rows


def by_class(report: ClassifierReport) -> str:
    """Lay out the figures of each class, and the confusion matrix."""
    classes = report.by_class
    if len(classes) > MOST_CLASSES:
        return f"--json has the figures of each of {len(classes)} classes, and the confusion matrix"
    table = [["class", "images", "recall, %", "precision, %", "specificity, %", "AUC"]]
    for one in classes:
        shares = [_short(figure, 100, 1) for figure in (one.recall, one.precision, one.specificity)]
        table.append([one.name, str(one.recall.total), *shares, _short(one.auc, 1, 3)])
    numbers = [str(index) for index in range(len(classes))]
    confusion = [["", "class", *numbers]]
    for number, one, row in zip(numbers, classes, report.confusion, strict=True):
        confusion.append([number, one.name, *map(str, row)])
    return (
        f"{columns(table)}\n\nimages of each class (rows) by the class they were given:\n{columns(confusion)}"
    )


def images_table(rows: Sequence[Row]) -> str:
    """Lay out the figures of synthetic images, with those of private ones beside them where there are some;
    and, below, how each was got.
    """
    is_beside = any(row.reference for row in rows)
    table = [["figure", "synthetic images", *(["private images"] if is_beside else [])]]
    for row in rows:
        beside = [_with_interval(row.reference) if row.reference else ""] if is_beside else []
        table.append([row.name, _with_interval(row), *beside])
    how = "\n".join(f"{row.name}: {row.how}" for row in rows)
    return f"{columns(table)}\n\n{how}"


def _with_interval(figure: Row | Reference) -> str:
    return f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"


def _share(figure: Measured) -> str:
    if figure.value is None or figure.interval is None:
        return "not defined"
    low, high = figure.interval
    return f"{figure.value:.2%} ({low:.2%} to {high:.2%})"


def _short(figure: Measured, times: int, digits: int) -> str:
    """Write a figure and its interval in a few characters, for a table of many."""
    if figure.value is None or figure.interval is None:
        return "not defined"
    value, low, high = (f"{times * number:.{digits}f}" for number in (figure.value, *figure.interval))
    return f"{value} ({low}–{high})"


def _number(figure: Measured) -> str:
    if figure.value is None:
        return "not defined"
    if figure.interval is None:
        return f"{figure.value:.4f}"
    low, high = figure.interval
    return f"{figure.value:.4f} ({low:.4f} to {high:.4f})"
