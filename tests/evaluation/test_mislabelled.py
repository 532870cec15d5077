from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpvision.evaluation.mislabelled import MislabelledImages
from dpvision.images.images import Images
from dpvision.networks import Classifier
from dpvision.privacy import InputError, SeededRandom


def images(count: int, classes: int) -> Images:
    """Every image has its number as its pixel."""
    pixels = torch.arange(count).to(torch.uint8).reshape(-1, 1, 1, 1)
    return Images(pixels, torch.arange(count) % classes, tuple("abcdefg"[:classes]), "made up")


class ByHeart(nn.Module):
    """Knows the label of every image."""

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.labels, self.strength = labels, nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.strength * nn.functional.one_hot(self.labels[x[:, 0, 0, 0].long()], 4).float()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_canaries_have_one_of_two_wrong_labels_by_a_coin(classes: int) -> None:
    before = images(250, classes)
    found = MislabelledImages.of(before, 100, SeededRandom(0))
    given, right = found.images.labels, before.labels
    assert given is not None
    assert right is not None
    assert len(found.chosen.unique()) == 100
    assert (found.labels[:, 0] != found.labels[:, 1]).all()
    if classes > 2:  # of two classes, one is right
        assert (found.labels != right[found.chosen, None]).all()
    expected = torch.where(found.included, found.labels[:, 1], found.labels[:, 0])
    assert torch.equal(given[found.chosen], expected)
    others = torch.ones(250, dtype=torch.bool).index_fill(0, found.chosen, False)
    assert torch.equal(given[others], right[others])
    assert torch.equal(before.labels, images(250, classes).labels)
    assert 30 < found.included.sum() < 70
    assert len(found.images) == 250


def test_scores_tell_the_coins_of_what_is_known_by_heart() -> None:
    found = MislabelledImages.of(images(250, 4), 100, SeededRandom(1))
    assert found.images.labels is not None
    network: Any = ByHeart(found.images.labels)
    model = Classifier(network, tuple("abcd"), (1, 1, 1), None)
    model.normalize = nn.Identity()  # type: ignore[assignment]
    scores = found.scores(model)
    assert torch.allclose(scores, torch.where(found.included, 3.0, -3.0).double(), atol=1e-5)


def test_there_must_be_as_many_images() -> None:
    with pytest.raises(InputError, match="there are 10 images; 11 of them cannot be mislabelled"):
        MislabelledImages.of(images(10, 3), 11, SeededRandom(0))
    assert len(MislabelledImages.of(images(10, 3), 10, SeededRandom(0)).chosen) == 10


def test_all_images_of_a_unit_share_a_coin() -> None:
    of_units = images(250, 4).with_units(torch.arange(250) % 100)
    found = MislabelledImages.of(of_units, 40, SeededRandom(2))
    units, given, right = of_units.units, found.images.labels, of_units.labels
    assert units is not None
    assert given is not None
    assert right is not None
    changed = units.of_image[given != right].unique()
    assert len(changed) == 40 == len(found.included)
    for canary, is_in in enumerate(found.included.tolist()):
        own = found.canary == canary
        assert len(units.of_image[found.chosen[own]].unique()) == 1
        assert given[found.chosen[own]].equal(found.labels[own, int(is_in)])
        assert int(own.sum()) == int(units.sizes[units.of_image[found.chosen[own][0]]])
    network: Any = ByHeart(given)
    model = Classifier(network, tuple("abcd"), (1, 1, 1), None)
    model.normalize = nn.Identity()  # type: ignore[assignment]
    expected = torch.where(found.included, 3.0, -3.0).double()
    assert torch.allclose(found.scores(model), expected, atol=1e-5)


def test_no_more_units_than_there_are_can_be_canaries() -> None:
    with pytest.raises(InputError, match="there are 10 units; 11"):
        MislabelledImages.of(images(50, 3).with_units(torch.arange(50) % 10), 11, SeededRandom(0))
