from __future__ import annotations

import json
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dpvision.evaluation import Row, evaluate_synthetic, image_features, train_and_test
from dpvision.evaluation.benchmark_training import BENCHMARK_NETWORKS, BenchmarkNetwork
from dpvision.evaluation.frechet import gaussian_distance
from dpvision.images import Images, open_images
from dpvision.priors import build_encoder
from dpvision.privacy.errors import InputError


@pytest.fixture(scope="module")
def digits() -> tuple[Images, Images]:
    """The train images in place of synthetic ones, and the test images."""
    return (
        open_images("bundled:digits").subset(range(0, 1437, 3)),
        open_images("bundled:digits", "test"),
    )


def unlabelled(images: Images) -> Images:
    return Images(images.pixels, None, (), images.source)


def by_name(rows: list[Row]) -> dict[str, Row]:
    return {row.name: row for row in rows}


def test_rows_are_the_figures_of_their_parts(digits: tuple[Images, Images]) -> None:
    synthetic, test = digits
    encoder = build_encoder("scattering", (1, 8, 8), cells=1)
    rows = by_name(evaluate_synthetic(synthetic, test, encoders=[encoder], seed=3))
    assert list(rows) == [
        "accuracy of logistic",
        "accuracy of mlp",
        "Fréchet distance (scattering)",
        "kernel distance (scattering)",
        "precision (scattering)",
        "recall (scattering)",
        "density (scattering)",
        "coverage (scattering)",
    ]
    assert rows["accuracy of mlp"].value == train_and_test("mlp", synthetic, test, seed=3).value
    assert rows["accuracy of logistic"].value > 0.9
    for row in rows.values():
        assert row.low <= row.value <= row.high
        assert f"{row.num_synthetic} synthetic and {row.num_real} real images" in row.how
    assert (rows["accuracy of mlp"].num_synthetic, rows["accuracy of mlp"].num_real) == (479, 360)
    # As many images of each set.
    assert {(row.num_synthetic, row.num_real) for row in list(rows.values())[2:]} == {(360, 360)}
    json.dumps([asdict(row) for row in rows.values()], allow_nan=False)

    generator = torch.Generator().manual_seed(3)
    some = synthetic.subset(torch.randperm(479, generator=generator)[:360])
    distance = gaussian_distance(
        image_features(some, encoder).double(), image_features(test, encoder).double()
    )
    assert rows["Fréchet distance (scattering)"].value == pytest.approx(distance)


def test_what_is_worse_is_told_apart(digits: tuple[Images, Images]) -> None:
    train, test = (unlabelled(images) for images in digits)
    noise = torch.randint(256, train.pixels.shape, generator=torch.Generator().manual_seed(0))
    noisy = Images(noise.to(torch.uint8), None, (), "noise")
    encoder = build_encoder("scattering", (1, 8, 8), cells=1)
    good, bad = (by_name(evaluate_synthetic(images, test, encoders=[encoder])) for images in (train, noisy))
    for name, row in good.items():
        if "distance" in name:
            assert row.high < bad[name].low
        else:
            assert row.low > bad[name].high
    assert len(good) == 6  # no classifier learns without labels


def test_features_are_compared_of_a_bounded_number(
    digits: tuple[Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[evaluate_synthetic.__module__], "MOST_IMAGES", 50)
    encoder = build_encoder("scattering", (1, 8, 8), cells=1)
    rows = evaluate_synthetic(*digits, classifiers=(), encoders=[encoder])
    assert {(row.num_synthetic, row.num_real) for row in rows} == {(50, 50)}


def test_what_does_not_fit_is_refused(digits: tuple[Images, Images]) -> None:
    synthetic, test = digits
    encoder = build_encoder("scattering", (1, 8, 8))
    other_names = Images(test.pixels, test.labels, tuple("abcdefghij"), "letters")
    more_names = Images(test.pixels, test.labels, (*test.class_names, "ten"), "more")
    large = Images(test.pixels.repeat(1, 3, 2, 2), test.labels, test.class_names, "large")
    for arguments, options, message in [
        ((synthetic, other_names), {}, "has classes 0, 1, .* and letters has a, b, .*; give both the same"),
        ((synthetic, more_names), {}, "give both the same"),
        ((synthetic, unlabelled(test)), {}, "has none; give both the same"),
        ((unlabelled(synthetic), test), {"classifiers": ["mlp"]}, "has classes none"),
        ((synthetic, large), {}, "with the same size and channels"),
        ((unlabelled(synthetic), test), {}, "nothing to measure"),
        ((synthetic, test), {"seed": -1}, r"seed must be from 0 to 2\*\*32 - 1, not -1"),
        ((synthetic, test), {"classifiers": ["svm"]}, "no classifier 'svm'"),
        (
            (synthetic.subset(range(5)), test),
            {"classifiers": (), "encoders": [encoder]},
            "5 of each set, where at least 6 are needed",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate_synthetic(*arguments, **options)  # type: ignore[arg-type]


def test_of_few_images_what_can_be_measured_is(
    digits: tuple[Images, Images], caplog: pytest.LogCaptureFixture
) -> None:
    synthetic, test = digits
    encoder = build_encoder("scattering", (1, 8, 8), cells=1)
    caplog.set_level("INFO")
    names = list(by_name(evaluate_synthetic(synthetic.subset(range(19)), test, encoders=[encoder])))
    assert names[:3] == ["accuracy of logistic", "accuracy of mlp", "precision (scattering)"]
    assert "19 images of each set are too few for distances" in caplog.text
    assert synthetic.labels is not None
    zeros = synthetic.subset((synthetic.labels == 0).nonzero()[:, 0])
    rows = by_name(evaluate_synthetic(zeros, test, encoders=[encoder]))
    assert "one class only: no classifier" in caplog.text
    assert next(iter(rows)) == "Fréchet distance (scattering)"
    with pytest.raises(InputError, match="one class only"):
        evaluate_synthetic(zeros, test, classifiers=["logistic"])


def test_a_class_without_synthetic_images_is_never_right(digits: tuple[Images, Images]) -> None:
    synthetic, test = digits
    assert synthetic.labels is not None
    assert test.labels is not None
    some = synthetic.subset((synthetic.labels != 3).nonzero()[:, 0])
    for row in evaluate_synthetic(some, test, classifiers=["logistic", "mlp"]):
        assert 0.6 < row.value < 1 - float((test.labels == 3).float().mean())


def test_private_images_are_measured_in_the_place_of_synthetic_ones(digits: tuple[Images, Images]) -> None:
    private, test = digits
    noise = torch.randint(256, (200, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    synthetic = Images(noise.to(torch.uint8), torch.arange(200) % 10, private.class_names, "noise")
    encoder = build_encoder("scattering", (1, 8, 8), cells=1)
    rows = evaluate_synthetic(synthetic, test, encoders=[encoder], reference=private, seed=2)
    some = private.subset(torch.randperm(479, generator=torch.Generator().manual_seed(2))[:200])
    alone = {
        "own": evaluate_synthetic(synthetic, test, encoders=[encoder], seed=2),
        "private": evaluate_synthetic(some, test, encoders=[encoder], seed=2),
    }
    for row, own, other in zip(rows, alone["own"], alone["private"], strict=True):
        assert (row.name, row.value, row.low, row.high) == (own.name, own.value, own.low, own.high)
        assert row.reference is not None
        assert own.reference is None
        assert (row.reference.value, row.reference.low, row.reference.high) == (
            other.value,
            other.low,
            other.high,
        )
        assert row.reference.num_private == 200
        assert "200 private images" in row.how
    json.dumps([asdict(row) for row in rows], allow_nan=False)
    assert rows[0].reference is not None
    assert rows[0].reference.value > 0.8 > 0.3 > rows[0].value


def test_where_there_are_fewer_private_images_all_are_measured(digits: tuple[Images, Images]) -> None:
    synthetic, test = digits
    encoder = build_encoder("scattering", (1, 8, 8), cells=1)
    rows = evaluate_synthetic(
        synthetic, test, encoders=[encoder], classifiers=["logistic"], reference=synthetic.subset(range(90))
    )
    assert [row.reference and row.reference.num_private for row in rows] == [90] * 7
    assert [row.num_synthetic for row in rows] == [479] + [90] * 6


def test_the_mean_of_the_benchmarks_classifiers_is_a_row(
    digits: tuple[Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic, test = digits
    known = {
        name: np.arange(360) < right for name, right in zip(BENCHMARK_NETWORKS, (90, 180, 360), strict=True)
    }

    def classified(name: BenchmarkNetwork, *_: object, **__: object) -> NDArray[np.bool_]:
        return known[name]

    monkeypatch.setattr(sys.modules[evaluate_synthetic.__module__], "classified_right", classified)
    rows = by_name(evaluate_synthetic(synthetic, test, classifiers=[*BENCHMARK_NETWORKS]))
    mean = rows["accuracy, mean of resnet110, wrn-40-4, resnext29"]
    assert mean.value == pytest.approx((90 + 180 + 360) / 3 / 360)
    shares = np.array([1] * 90 + [2 / 3] * 90 + [1 / 3] * 180)
    half = 1.96 * shares.std() / 360**0.5
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.005)
    assert len(evaluate_synthetic(synthetic, test, classifiers=BENCHMARK_NETWORKS[:2])) == 2
