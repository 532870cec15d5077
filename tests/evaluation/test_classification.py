from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)
from torch import Tensor, nn

from dpvision.evaluation import classification
from dpvision.evaluation.classification import classifier_report, evaluate_classifier
from dpvision.evaluation.classifier_report import PUBLISHING, ClassifierReport, Measured
from dpvision.images import Images
from dpvision.networks import Classifier
from dpvision.privacy.errors import InputError

CLASSES = ("ant", "bee", "cat", "dog")


def made_up(count: int = 300, classes: int = 4) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Log-probabilities of a middling classifier, and labels."""
    random = np.random.default_rng(0)
    labels = random.choice(classes, size=count, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    logits = torch.tensor(random.normal(size=(count, classes)))
    logits[torch.arange(count), torch.tensor(labels)] += 1.5
    return logits.log_softmax(dim=1).numpy(), labels


def certain(given: list[int], labels: list[int], classes: int = 2) -> ClassifierReport:
    """The report of a classifier that is nearly certain of the classes it gives."""
    logits = 9 * nn.functional.one_hot(torch.tensor(given), classes).double()
    return classifier_report(logits.log_softmax(dim=1).numpy(), np.array(labels), CLASSES[:classes])


def numbers(value: Any) -> list[float]:
    """All numbers inside a JSON value."""
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, list):
        return [number for one in value for number in numbers(one)]
    return [value] if isinstance(value, int | float) else []


def exact(part: int, total: int) -> tuple[float, float]:
    """Clopper and Pearson's interval, by the quantiles that define it."""
    low = beta.ppf(0.025, part, total - part + 1) if part else 0.0
    return float(low), float(beta.ppf(0.975, part + 1, total - part)) if part < total else 1.0


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_figures_are_those_of_scikit_learn(classes: int) -> None:
    found, labels = made_up(classes=classes)
    probabilities, given = np.exp(found), found.argmax(axis=1)
    report = classifier_report(found, labels, CLASSES[:classes])
    assert report.accuracy.value == (given == labels).mean()
    assert report.majority_class == CLASSES[classes - 1]
    assert report.majority.value == np.bincount(labels).max() / len(labels)
    assert report.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(labels, given))
    scores = probabilities[:, 1] if classes == 2 else probabilities
    assert report.auc.value == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"))
    assert report.log_loss.value == pytest.approx(log_loss(labels, probabilities))
    matrix = confusion_matrix(labels, given)
    assert np.array_equal(report.confusion, matrix)
    precision, recall, _, support = precision_recall_fscore_support(labels, given)
    for k, one in enumerate(report.by_class):
        assert one.name == CLASSES[k]
        assert (one.recall.value, one.recall.total) == (pytest.approx(recall[k]), support[k])
        assert one.recall.interval == pytest.approx(exact(int(matrix[k, k]), int(support[k])))
        assert (one.precision.value, one.precision.total) == (pytest.approx(precision[k]), (given == k).sum())
        assert one.precision.interval == pytest.approx(exact(int(matrix[k, k]), int((given == k).sum())))
        others = labels != k
        assert one.specificity.value == pytest.approx((given[others] != k).mean())
        assert one.specificity.total == others.sum()
        assert one.auc.value == pytest.approx(roc_auc_score(labels == k, probabilities[:, k]))


def test_calibration_error_is_that_of_its_definition() -> None:
    found, labels = made_up()
    confidences, right = np.exp(found.max(axis=1)), found.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (low <= confidences) & (confidences < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    report = classifier_report(found, labels, CLASSES)
    assert report.calibration_error.value == pytest.approx(expected)
    assert report.to_json()["calibration_error"]["bins"] == 15
    assert certain([0, 1], [0, 1]).calibration_error.value == pytest.approx(0, abs=1e-3)
    assert certain([0, 1], [1, 0]).calibration_error.value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("threshold", [None, 0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("positive", [None, "ant", "bee"])
def test_sensitivity_and_specificity_at_a_threshold(positive: str | None, threshold: float | None) -> None:
    found, labels = made_up(classes=2)
    at = classifier_report(found, labels, CLASSES[:2], positive=positive, threshold=threshold).at_threshold
    assert at is not None
    k = CLASSES.index(positive or "bee")  # the second is the default
    assert (at.positive, at.threshold) == (CLASSES[k], 0.5 if threshold is None else threshold)
    taken, members = np.exp(found[:, k]) >= at.threshold, labels == k
    assert at.sensitivity.value == pytest.approx((taken & members).sum() / members.sum())
    assert at.specificity.value == pytest.approx((~taken & ~members).sum() / (~members).sum())
    assert at.sensitivity.interval == pytest.approx(exact(int((taken & members).sum()), int(members.sum())))


def test_an_image_at_the_threshold_is_positive() -> None:
    at = classifier_report(np.log([[0.5, 0.5]]), np.array([1]), CLASSES[:2]).at_threshold
    assert at is not None
    assert at.sensitivity.value == 1


def test_a_loss_is_not_negative() -> None:
    report = classifier_report(np.log([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]), np.zeros(3, int), CLASSES[:2])
    assert report.log_loss.interval is not None
    assert report.log_loss.interval[0] == 0


def test_of_more_classes_one_is_positive_if_it_is_named() -> None:
    found, labels = made_up()
    assert classifier_report(found, labels, CLASSES).at_threshold is None
    assert classifier_report(found, labels, CLASSES).to_json()["at_threshold"] is None
    at = classifier_report(found, labels, CLASSES, positive="cat", threshold=0.2).at_threshold
    assert at is not None
    assert at.sensitivity.value == pytest.approx((np.exp(found[labels == 2, 2]) >= 0.2).mean())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positive": "emu"}, "no class 'emu' to be positive; choose from ant, bee, cat, dog"),
        ({"threshold": 0.5}, "needs the positive class"),
        ({"positive": "bee", "threshold": 1.5}, "from 0 to 1, not 1.5"),
        ({"positive": "bee", "threshold": math.nan}, "from 0 to 1, not nan"),
    ],
)
def test_a_threshold_that_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    found, labels = made_up()
    with pytest.raises(InputError, match=message):
        classifier_report(found, labels, CLASSES, **given)


def test_a_class_without_images() -> None:
    report = certain([0, 0, 1, 0, 2], [0, 0, 1, 1, 1], classes=4)
    dog = report.by_class[3]
    assert dog.recall == Measured(None, None, 0)
    assert dog.precision == Measured(None, None, 0)
    assert dog.auc.value is None
    assert dog.specificity.value == 1
    assert report.by_class[2].precision.value == 0
    assert report.balanced_accuracy.value == pytest.approx((1 + 1 / 3) / 2)
    assert report.auc.value == pytest.approx((5 / 6 + 5 / 6) / 2, abs=0.1)
    assert [note.split(":")[0] for note in report.notes] == [
        "no image is of class 'cat'",
        "no image is of class 'dog'",
        "no image was given class 'dog'",
    ]
    assert report.to_json()["by_class"][3]["recall"] == {"value": None, "interval_95": None, "total": 0}


def test_images_of_one_class_only() -> None:
    report = certain([0, 0, 1], [0, 0, 0])
    assert report.accuracy.value == report.balanced_accuracy.value == 2 / 3
    assert report.majority.value == 1
    assert report.auc == Measured(None, None, 3)
    assert report.at_threshold is not None
    assert report.at_threshold.sensitivity.value is None
    assert report.at_threshold.specificity.value == 2 / 3
    assert any("all images are of class 'ant'" in note for note in report.notes)


def test_a_single_image() -> None:
    report = certain([1], [1])
    assert report.accuracy.interval == pytest.approx((0.025, 1))
    assert report.log_loss.interval is None
    assert report.log_loss.value == pytest.approx(0, abs=1e-3)
    assert "there is one image only: log loss has no interval" in report.notes


@pytest.mark.parametrize("count", [2, 10, 1000])
def test_nothing_is_certain_where_all_is_right(count: int) -> None:
    labels = [0, 1] * (count // 2)
    report = certain(labels, labels)
    for figure in (report.balanced_accuracy, report.auc):
        assert figure.value == 1
        assert figure.interval is not None
        assert figure.interval[1] == 1
        # By the rule of three: where 3 of n images are expected to be wrong, all are right in 5 % of cases.
        assert figure.interval[0] < 1 - min(3 / count, 0.8)
    assert report.calibration_error.interval is not None
    assert report.calibration_error.interval[1] > min(3 / count, 0.8)
    assert report.at_threshold is not None
    assert report.at_threshold.sensitivity.interval == pytest.approx(exact(count // 2, count // 2))


def test_classes_are_told_apart_where_probabilities_are_1_to_the_last_bit() -> None:
    logits = torch.tensor([[0.0, 50.0], [0.0, 60.0], [0.0, 70.0], [0.0, 80.0]]).double()
    report = classifier_report(logits.log_softmax(dim=1).numpy(), np.array([0, 0, 1, 1]), CLASSES[:2])
    assert [one.auc.value for one in report.by_class] == [1, 1]
    assert report.log_loss.value == pytest.approx(110 / 4)


@pytest.mark.parametrize(
    "report",
    [
        classifier_report(*made_up(), CLASSES),
        classifier_report(*made_up(classes=2), CLASSES[:2]),
        certain([0, 0, 1], [0, 0, 0]),
        certain([1], [1]),
        classifier_report(np.full((3, 2), np.nan), np.array([0, 1, 1]), CLASSES[:2]),
    ],
)
def test_json_has_all_and_no_nan(report: ClassifierReport) -> None:
    fields = report.to_json()
    text = json.dumps(fields, allow_nan=False)
    assert all(math.isfinite(number) for number in numbers(fields))
    assert ClassifierReport.from_json(json.loads(text)) == report
    figures = {*PUBLISHING["if_the_images_may_be_published"]}
    assert fields.keys() - figures == {"total", "classes", "notes", "publishing"}  # of each it is said
    for name in figures - {"at_threshold", "by_class", "confusion", "reliability", "roc"}:
        value, interval = fields[name]["value"], fields[name]["interval_95"]
        assert interval is None or interval[0] <= value <= interval[1]
        assert interval is not None or report.notes


def test_reliability_is_by_bins_of_confidence() -> None:
    """As many in all as there are images, right as often as the classifier, with the error that is stated."""
    says, labels = made_up()
    report = classifier_report(says, labels, CLASSES)
    assert sum(total for _, _, total in report.reliability) == report.total
    assert sum(right for _, right, _ in report.reliability) == report.accuracy.correct
    error = sum(abs(right - total * sure) for sure, right, total in report.reliability) / report.total
    assert error == pytest.approx(report.calibration_error.value)
    confidences = np.exp(says.max(axis=1))
    edges = np.linspace(0, 1, 16)
    of_bins = [confidences[(low <= confidences) & (confidences < low + 1 / 15)] for low in edges[:-1]]
    of_bins = [one for one in of_bins if len(one)]
    assert [total for _, _, total in report.reliability] == [len(one) for one in of_bins]
    assert [sure for sure, _, _ in report.reliability] == pytest.approx([one.mean() for one in of_bins])


def test_two_classes_have_a_curve() -> None:
    says, labels = made_up(classes=2)
    report = classifier_report(says, labels, CLASSES[:2])
    assert len(report.roc) == 101
    area = np.trapezoid([hits for _, hits in report.roc], [false for false, _ in report.roc])
    assert area == pytest.approx(report.auc.value, abs=0.01)
    assert classifier_report(*made_up(), CLASSES).roc == ()
    assert certain([0, 1], [0, 0]).roc == ()


def test_a_classifier_that_diverged_is_measured_as_far_as_it_can_be() -> None:
    found, labels = made_up()
    found[7] = np.nan
    report = classifier_report(found, labels, CLASSES)
    assert 0.3 < report.accuracy.value < 1
    assert report.auc.value is report.calibration_error.value is report.log_loss.value is None
    assert report.by_class[0].auc.value is None
    assert "no finite number" in report.notes[0]


class Constant(nn.Module):
    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_a_classifier_is_measured_on_images_whose_classes_have_another_order() -> None:
    model = Classifier(Constant([0.0, 1.0]), ["cat", "dog"], (1, 2, 2))
    pixels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    images = Images(pixels, torch.tensor([0, 0, 1]), ("dog", "cat"), "test images")
    report = evaluate_classifier(model, images)
    assert report.confusion == ((0, 1), (0, 2))
    assert report.auc.value == 0.5
    assert report.log_loss.value == pytest.approx((2 * math.log1p(math.exp(-1)) + math.log1p(math.e)) / 3)
    with pytest.raises(InputError, match="fox"):
        evaluate_classifier(model, Images(pixels, torch.tensor([0, 0, 1]), ("dog", "fox"), "test images"))
    with pytest.raises(InputError, match="has no labels"):
        evaluate_classifier(model, Images(pixels, None, (), "test images"))


def test_how_many_images_are_worked_on_at_a_time_changes_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    says = np.log(random.dirichlet(np.ones(3), 50))
    labels = random.integers(3, size=50)
    expected = classifier_report(says, labels, ("a", "b", "c"))
    for rows in (1, 7, 50):
        monkeypatch.setattr(classification, "ROWS_AT_A_TIME", rows)
        assert classifier_report(says, labels, ("a", "b", "c")) == expected
