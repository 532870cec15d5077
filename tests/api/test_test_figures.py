"""A run measures every figure on the test images, and publishes the accuracy alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import dpvision
from dpvision.api.publishing import Result
from dpvision.images import Images
from dpvision.privacy import InputError

CONFIG = {"network": "linear", "steps": 4, "expected_batch_size": 40, "learning_rate": 0.5}
FIGURES = "private/test.json"


def train(images: Images, out: Path, **options: Any) -> Result:
    return dpvision.train(images, **{"epsilon": 3.0, "out": out, "config": CONFIG, **options})


@pytest.fixture
def test_images(images: Images) -> Images:
    """Other images that look the same."""
    return replace(images, pixels=images.pixels ^ 1)


def test_the_release_has_the_accuracy_alone(images: Images, test_images: Images, tmp_path: Path) -> None:
    result = train(images, tmp_path / "run", test=test_images)
    report = result.test_report
    assert report is not None
    assert json.loads((tmp_path / "run" / FIGURES).read_text()) == report.to_json()
    assert (tmp_path / "run" / FIGURES).stat().st_mode & 0o777 == 0o600
    card = json.loads((result.release / "card.json").read_text())
    assert card["test"].keys() == {"accuracy", "interval_95", "correct", "total"}
    released = "".join(path.read_text() for path in result.release.glob("*.json"))
    for figure in (report.log_loss, report.calibration_error, report.balanced_accuracy):
        assert figure.value is not None
        if figure.value != report.accuracy.value:
            assert repr(figure.value)[:8] not in released
    assert not list(result.release.glob("**/test.json"))


def test_a_run_that_is_complete_has_them_still(images: Images, test_images: Images, tmp_path: Path) -> None:
    result = train(images, tmp_path / "run", test=test_images)
    assert dpvision.resume(tmp_path / "run").test_report == result.test_report  # type: ignore[union-attr]
    (tmp_path / "run" / FIGURES).write_text('{"accuracy": 1}')
    with pytest.raises(InputError, match=r"test\.json cannot be read"):
        dpvision.resume(tmp_path / "run")
    (tmp_path / "run" / FIGURES).unlink()  # as in a run of an earlier version
    again = dpvision.resume(tmp_path / "run")
    assert isinstance(again, Result)
    assert (again.test_accuracy, again.test_report) == (result.test_accuracy, None)


def test_without_test_images_there_are_none(images: Images, tmp_path: Path) -> None:
    result = train(images, tmp_path / "run")
    assert result.test_accuracy is result.test_report is None
    assert not (tmp_path / "run" / FIGURES).exists()


def test_a_training_that_diverged_is_released_all_the_same(
    images: Images, test_images: Images, tmp_path: Path
) -> None:
    """It was paid for."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(images.pixels[0].numel(), 4), nn.Linear(4, 2))
    config = {**CONFIG, "learning_rate": 1e20}
    del config["network"]
    options: dict[str, Any] = {"test": test_images, "network": network, "method": "dp-sgd"}
    report = train(images, tmp_path / "run", config=config, **options).test_report
    assert report is not None
    assert report.log_loss.value is None
    assert report.accuracy.total == 120


def test_the_positive_class_is_known_before_the_images_are_read(images: Images, tmp_path: Path) -> None:
    train(images, tmp_path / "run")
    with pytest.raises(InputError, match="no class 'grey' to be positive; choose from dark, bright"):
        dpvision.evaluate(tmp_path / "run", tmp_path / "nowhere", positive="grey")
    at = dpvision.evaluate(tmp_path / "run", images, positive="dark", threshold=0.2).at_threshold
    assert at is not None
    assert (at.positive, at.threshold) == ("dark", 0.2)
