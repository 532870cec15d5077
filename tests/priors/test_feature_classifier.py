"""A linear head on a frozen encoder: what it computes, and that a config brings it back."""

from __future__ import annotations

import json

import pytest
import torch

from dpvision.networks import Classifier, build_classifier
from dpvision.priors.feature_classifier import (
    FeatureClassifier,
    build_feature_classifier,
    encoded,
    rebuild_classifier,
)
from dpvision.privacy.errors import InputError

PIXELS = torch.randint(256, (7, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def classifier(mirror: bool = False, encoder: str = "scattering") -> Classifier:
    options = {"cells": 2}
    return build_feature_classifier(
        encoder, image_shape=(3, 16, 16), class_names=("a", "b", "c"), options=options, mirror=mirror
    )


def network_of(model: Classifier) -> FeatureClassifier:
    assert isinstance(model.network, FeatureClassifier)
    return model.network


def test_features_have_norm_one_and_the_head_begins_undecided() -> None:
    model = classifier()
    features = encoded(model, PIXELS)
    assert features.shape == (7, 3 * 81 * 4)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(7))
    assert torch.equal(model(PIXELS), torch.zeros(7, 3))
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["network.head.weight"]


def test_logits_are_linear_in_the_features() -> None:
    model = classifier()
    torch.nn.init.normal_(network_of(model).head.weight)
    torch.testing.assert_close(model(PIXELS), encoded(model, PIXELS) @ network_of(model).head.weight.t())


def test_mirror_images_are_alike_only_where_that_is_asked() -> None:
    mirrored = PIXELS.flip(3)
    torch.testing.assert_close(
        encoded(classifier(mirror=True), PIXELS), encoded(classifier(mirror=True), mirrored)
    )
    plain = classifier()
    assert not torch.allclose(encoded(plain, PIXELS), encoded(plain, mirrored), atol=1e-3)
    # Both images count: the sum of their features, brought to norm one.
    normalized, encoder = plain.normalize(PIXELS), network_of(plain).encoder
    both = encoder(normalized) + encoder(normalized.flip(3))
    expected = torch.nn.functional.normalize(both, dim=1)
    torch.testing.assert_close(encoded(classifier(mirror=True), PIXELS), expected)


@pytest.mark.parametrize("encoder", ["scattering", "random-wrn-10-1"])
def test_a_config_of_json_types_brings_the_classifier_back(encoder: str) -> None:
    model = classifier(mirror=True, encoder=encoder)
    torch.nn.init.normal_(network_of(model).head.weight)
    again = rebuild_classifier(json.loads(json.dumps(model.config)))
    again.load_state_dict(model.state_dict())
    assert again.class_names == model.class_names
    assert torch.equal(again.eval()(PIXELS), model.eval()(PIXELS))


def test_other_classifiers_come_back_too_but_have_no_features() -> None:
    model = build_classifier("linear", image_shape=(3, 16, 16), class_names=("a", "b"))
    assert model.config is not None
    assert rebuild_classifier(model.config).config == model.config
    with pytest.raises(InputError, match="features of an encoder"):
        encoded(model, PIXELS)
