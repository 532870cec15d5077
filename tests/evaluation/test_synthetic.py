from __future__ import annotations

import json
import sys
from dataclasses import asdict

import pytest
import torch

from dpvision.evaluation import Row, evaluate_synthetic, image_features, train_and_test
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
            (synthetic.subset(range(19)), test),
            {"classifiers": (), "encoders": [encoder]},
            "19 synthetic images, too few",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            evaluate_synthetic(*arguments, **options)  # type: ignore[arg-type]
