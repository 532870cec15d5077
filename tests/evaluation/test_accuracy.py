from __future__ import annotations

import pytest
import torch
from scipy.stats import beta
from torch import Tensor, nn

from dpvision.evaluation import Accuracy, accuracy
from dpvision.images.images import Images
from dpvision.networks import Classifier
from dpvision.privacy.errors import InputError


class TopLeftPixel(nn.Module):
    """Predicts the class whose index is the value of the image's first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes = 3
        self.scale = nn.Parameter(torch.ones(()))
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        return nn.functional.one_hot(x[:, 0, 0, 0].long(), self.num_classes) * self.scale


def images(
    first_pixels: list[int], labels: list[int] | None, classes: tuple[str, ...] = ("a", "b", "c")
) -> Images:
    pixels = torch.zeros(len(first_pixels), 1, 2, 2, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.tensor(first_pixels)
    return Images(pixels, None if labels is None else torch.tensor(labels), classes, "test images")


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_counts_what_is_right(batch_size: int) -> None:
    result = accuracy(TopLeftPixel(), images([0, 1, 2, 1, 0], [0, 1, 0, 1, 2]), batch_size)
    assert result == Accuracy(correct=3, total=5)
    assert result.value == 0.6


@pytest.mark.parametrize("training", [True, False])
def test_evaluates_in_evaluation_mode_and_restores_the_mode(training: bool) -> None:
    model = TopLeftPixel().train(training)
    accuracy(model, images([0], [0]))
    assert model.modes == [False]
    assert model.training is training


@pytest.mark.parametrize(("correct", "total"), [(0, 20), (7, 20), (20, 20), (9812, 10_000)])
def test_interval_is_clopper_pearson(correct: int, total: int) -> None:
    low, high = Accuracy(correct, total).interval
    # The beta quantiles that define it.
    assert low == pytest.approx(beta.ppf(0.025, correct, total - correct + 1) if correct else 0)
    assert high == pytest.approx(beta.ppf(0.975, correct + 1, total - correct) if correct < total else 1)


def test_text_says_the_interval_and_the_number_of_images() -> None:
    assert str(Accuracy(90, 100)) == "90.00% (95 % interval 82.38% to 95.10%, n = 100)"


def test_labels_are_matched_to_a_classifiers_classes_by_name() -> None:
    class Predicts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.0, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.logits.expand(len(x), 2)

    says_dog = Classifier(Predicts(), ["cat", "dog"], (1, 2, 2))
    assert accuracy(says_dog, images([0, 0, 0], [0, 0, 1], ("dog", "cat"))) == Accuracy(2, 3)
    with pytest.raises(InputError, match="fox"):
        accuracy(says_dog, images([0, 0], [0, 1], ("dog", "fox")))


def test_unlabelled_images_are_refused() -> None:
    with pytest.raises(InputError, match="test images has no labels"):
        accuracy(TopLeftPixel(), images([0, 1], None))
