from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from dpvision.networks import Classifier, build_classifier
from dpvision.privacy.errors import InputError


def small_classifier() -> Classifier:
    return build_classifier(
        "wrn-10-1", image_shape=(1, 8, 8), class_names=["cat", "dog"], options={"groups": 8}
    )


def test_normalisation_is_inside() -> None:
    classifier = Classifier(nn.Identity(), ["a"], (1, 1, 3))
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    torch.testing.assert_close(classifier(pixels).flatten(), torch.tensor([-2.0, -1.2, 2.0]))


def test_uint8_and_unit_interval_are_the_same_image() -> None:
    classifier = small_classifier()
    pixels = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(classifier(pixels), classifier(pixels.float() / 255))
    assert classifier.double()(pixels).dtype == torch.float64


def test_config_and_state_rebuild_the_classifier() -> None:
    classifier = small_classifier()
    again = build_classifier(**json.loads(json.dumps(classifier.config)))
    again.load_state_dict(classifier.state_dict())
    pixels = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(again(pixels), classifier(pixels))
    assert again.class_names == classifier.class_names == ("cat", "dog")
    assert again.config == classifier.config
    assert "normalize.mean" in classifier.state_dict()


def test_the_normalisation_is_not_trained() -> None:
    assert not any(name.startswith("normalize") for name, _ in small_classifier().named_parameters())


def test_other_images_are_refused() -> None:
    classifier = small_classifier()
    with pytest.raises(InputError, match="shape 1×8×8, not 3×8×8"):
        classifier(torch.zeros(2, 3, 8, 8))
    with pytest.raises(InputError, match=r"not torch\.int64"):
        classifier(torch.zeros(2, 1, 8, 8, dtype=torch.int64))
