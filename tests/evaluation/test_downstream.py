from __future__ import annotations

import numpy as np
import pytest
import torch

from dpvision.evaluation import (
    BenchmarkTraining,
    ResNet9Training,
    default_classifiers,
    train_and_test,
    train_network,
)
from dpvision.evaluation.downstream import NEGLIGIBLE, ClassifierName, named_classifiers, protocol
from dpvision.images import Images
from dpvision.privacy.errors import InputError

CLASSIFIERS: tuple[ClassifierName, ...] = ("logistic", "mlp", "resnet9", "resnet110")
QUICK = ResNet9Training(steps=30, batch_size=32, width=4)
FEW = BenchmarkTraining(steps=3, batch_size=8)


def quadrants(n: int, seed: int, channels: int = 1, names: tuple[str, ...] = ("a", "b", "c", "d")) -> Images:
    """Images of 16 pixels whose class says which quarter is bright, amid noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    pixels = torch.randint(100, (n, channels, 16, 16), generator=generator)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        top, left = 8 * (label // 2), 8 * (label % 2)
        image[:, top : top + 8, left : left + 8] += 100
    return Images(pixels.to(torch.uint8), labels, names, f"quadrants {seed}")


def textures(n: int, seed: int) -> Images:
    """RGB images of 8 pixels, stripes along rows or columns, which shifts and mirrors leave stripes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=generator)
    stripes = torch.tensor([0, 0, 120, 120]).repeat(2).expand(3, 8, 8)
    pixels = torch.stack([stripes.mT if label else stripes for label in labels.tolist()])
    noise = torch.randint(100, pixels.shape, generator=generator)
    return Images((pixels + noise).to(torch.uint8), labels, ("columns", "rows"), f"textures {seed}")


def shuffled(images: Images) -> Images:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(9))
    assert images.labels is not None
    return Images(images.pixels, images.labels[order], images.class_names, images.source)


@pytest.mark.parametrize("classifier", ["logistic", "mlp"])
def test_pixel_classifiers_learn_what_pixels_tell(classifier: ClassifierName) -> None:
    train, test = quadrants(80, 0), quadrants(200, 1)
    learned = train_and_test(classifier, train, test)
    assert learned.total == 200
    assert learned.value > 0.95
    assert train_and_test(classifier, shuffled(train), test).value < 0.5


def test_resnet9_learns_textures_and_nothing_from_shuffled_labels() -> None:
    train, test = textures(96, 0), textures(200, 1)
    assert train_and_test("resnet9", train, test, resnet9=QUICK).value > 0.95
    assert 0.2 < train_and_test("resnet9", shuffled(train), test, resnet9=QUICK).value < 0.8


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_classes_are_matched_by_name(classifier: ClassifierName) -> None:
    train = textures(64, 0)
    test = textures(100, 1)
    assert test.labels is not None
    renamed = Images(test.pixels, 1 - test.labels, ("rows", "columns"), "renamed")
    results = [
        train_and_test(classifier, train, images, resnet9=QUICK, benchmark=FEW) for images in (test, renamed)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_seed_decides_and_the_global_generators_are_left_alone(classifier: ClassifierName) -> None:
    train, test = shuffled(quadrants(40, 0)), quadrants(150, 1)
    state = torch.random.get_rng_state()
    results = [
        train_and_test(classifier, train, test, seed=s, resnet9=QUICK, benchmark=FEW) for s in (0, 0, 1)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert results[0] == results[1]
    assert (results[0] == results[2]) == (classifier == "logistic")  # its loss is convex


def test_resnet9_sees_all_images_shifted_and_of_colours_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, bool]] = []
    from dpvision.evaluation import network_training

    def record(pixels: torch.Tensor, uniform: torch.Tensor, pad: int, flip: bool) -> torch.Tensor:
        calls.append((pad, flip))
        seen.extend(pixels[:, 0, 0, 0].tolist())
        return pixels[:, None] / 255

    monkeypatch.setattr(network_training, "shifted", record)
    for channels in (1, 3):
        seen: list[int] = []
        images = quadrants(30, 0, channels)
        images.pixels[:, 0, 0, 0] = torch.arange(30)
        training = ResNet9Training(steps=6, batch_size=10, width=2)
        model = train_network(images, training)
        assert calls[-1] == (2, channels == 3)
        assert sorted(seen[:30]) == sorted(seen[30:]) == list(range(30))
        assert seen[:30] != seen[30:]
        assert not model.training


def test_progress_is_told() -> None:
    calls: list[tuple[str, int, int]] = []
    train = quadrants(20, 0)
    train_and_test(
        "resnet9",
        train,
        train,
        resnet9=ResNet9Training(steps=3, width=2),
        progress=lambda *a: calls.append(a),
    )
    assert calls == [("training ResNet-9", step, 3) for step in (1, 2, 3)]
    calls.clear()
    train_and_test("logistic", train, train, progress=lambda *a: calls.append(a))
    assert calls == [("training logistic", 0, 1), ("training logistic", 1, 1)]


def test_defaults_are_those_of_the_papers_tables() -> None:
    assert default_classifiers((1, 28, 28)) == default_classifiers((1, 8, 8)) == ("logistic", "mlp")
    for shape in [(3, 32, 32), (1, 32, 32), (3, 28, 28)]:
        assert default_classifiers(shape) == ("resnet9",)


def test_protocols_say_their_limits() -> None:
    assert "at most 5000 iterations" in protocol("logistic")
    assert "at most 200 epochs" in protocol("mlp")
    assert "30 steps of 32 images" in protocol("resnet9", QUICK)
    assert "ResNet-110, Adam, 50 epochs of batches of 256" in protocol("resnet110")
    assert "WRN-40-4 (dropout 0.3), Adam, 3 steps of batches of 8" in protocol("wrn-40-4", benchmark=FEW)


def test_a_group_stands_for_its_classifiers() -> None:
    three = ("resnet110", "wrn-40-4", "resnext29")
    assert named_classifiers(["dpimagebench"]) == three
    assert named_classifiers(["mlp", "wrn-40-4", "dpimagebench"]) == ("mlp", "wrn-40-4", three[0], three[2])
    with pytest.raises(InputError, match=r"no classifier 'vgg'; choose one of logistic, .*, dpimagebench"):
        named_classifiers(["vgg"])


def test_what_cannot_be_trained_or_tested_is_refused() -> None:
    train = quadrants(20, 0)
    unlabelled = Images(train.pixels, None, (), "unlabelled")
    one_class = Images(train.pixels, torch.zeros(20, dtype=torch.int64), ("a",), "one")
    small = Images(train.pixels[..., :4], train.labels, train.class_names, "small")
    for name, synthetic, test, message in [
        ("svm", train, train, "no classifier 'svm'; choose one of logistic, mlp, resnet9, resnet110"),
        ("dpimagebench", train, train, "no classifier 'dpimagebench'"),
        ("logistic", unlabelled, train, "unlabelled has no labels"),
        ("logistic", train, unlabelled, "unlabelled has no labels"),
        ("mlp", one_class, train, "one class only"),
        ("logistic", train, quadrants(9, 1, names=("a", "b", "c", "fox")), "class 'fox'"),
        ("logistic", train, quadrants(9, 1, channels=3), r"\[1, 16, 16\] and those of quadrants 1 \[3"),
        ("resnet9", small, small, "at least 8×8 pixels, not 16×4"),
    ]:
        with pytest.raises(InputError, match=message):
            train_and_test(name, synthetic, test)  # type: ignore[arg-type]


@pytest.mark.parametrize("classifier", ["logistic", "mlp"])
def test_of_classes_that_are_all_unlikely_the_likeliest_is_learned(classifier: ClassifierName) -> None:
    """As those of a teacher that is in doubt between hundreds of classes."""
    train, test = quadrants(80, 0), quadrants(200, 1)
    names = (*train.class_names, *(f"other {number}" for number in range(300)))
    assert train.labels is not None
    likeliest = 0.8 * NEGLIGIBLE
    doubtful = torch.full((80, len(names)), (1 - likeliest) / (len(names) - 1))
    doubtful[torch.arange(80), train.labels] = likeliest
    learned = train_and_test(classifier, train.with_classes(names), test, soft_labels=doubtful.numpy())
    assert learned.value > 0.95


def test_soft_labels_of_one_class_alone_are_refused() -> None:
    train = quadrants(20, 0)
    of_one = torch.eye(4)[torch.ones(20, dtype=torch.int64)]
    with pytest.raises(InputError, match="by their soft labels all images of quadrants 0 are of class 'b'"):
        train_and_test("mlp", train, train, soft_labels=of_one.numpy())


@pytest.mark.parametrize("classifier", ["mlp", "resnet9"])
@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [((19, 4), 0.25, "of shape"), ((20, 5), 0.2, "of shape"), ((20, 4), 0.5, "must be probabilities")],
)
def test_soft_labels_that_are_none_are_refused(
    classifier: ClassifierName, shape: tuple[int, int], value: float, message: str
) -> None:
    train = quadrants(20, 0)
    with pytest.raises(InputError, match=message):
        train_and_test(classifier, train, train, soft_labels=np.full(shape, value, dtype=np.float32))


@pytest.mark.parametrize(
    "setting",
    [{"steps": 0}, {"batch_size": 0}, {"width": 0}, {"learning_rate": 0.0}, {"weight_decay": -1.0}],
)
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        ResNet9Training(**setting)
