"""A linear head on a frozen encoder: what it computes, and that a config brings it back."""

from __future__ import annotations

import json

import pytest
import torch

from dpvision.gradients import clipped_gradient_sum
from dpvision.images import Images
from dpvision.networks import Classifier, build_classifier, build_network
from dpvision.priors.feature_classifier import (
    FeatureClassifier,
    Head,
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


def features_of(model: Classifier, pixels: torch.Tensor) -> torch.Tensor:
    return encoded(model, Images(pixels, None, (), "made"))


def network_of(model: Classifier) -> FeatureClassifier:
    assert isinstance(model.network, FeatureClassifier)
    return model.network


def test_features_have_norm_one_and_the_head_begins_undecided() -> None:
    model = classifier()
    features = features_of(model, PIXELS)
    assert features.shape == (7, 3 * 81 * 4)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(7))
    assert torch.equal(model(PIXELS), torch.zeros(7, 3))
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["network.head.weight"]


def test_logits_are_linear_in_the_features() -> None:
    model = classifier()
    torch.nn.init.normal_(network_of(model).head.weight)
    torch.testing.assert_close(model(PIXELS), features_of(model, PIXELS) @ network_of(model).head.weight.t())


def test_the_affine_head_makes_the_wide_resnet_of_the_paper() -> None:
    """Tang et al., arXiv 2306.06076: a new GroupNorm and linear layer, of 3,082 parameters for WRN-16-4 and
    ten classes, after the last stage.
    """
    model = build_feature_classifier(
        "random-wrn-16-4",
        image_shape=(3, 16, 16),
        class_names=[str(i) for i in range(10)],
        options={"taps": [5]},
        mirror=False,
        head="affine",
    )
    network = network_of(model)
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter)
    assert sum(parameter.numel() for parameter in network.head.parameters()) == 3082
    with torch.no_grad():  # as features are computed
        assert torch.equal(model(PIXELS), network.head(features_of(model, PIXELS)))

    whole = build_network("wrn-16-4", in_channels=3, image_size=(16, 16), num_classes=10)
    head = dict(
        zip(
            ("final.norm.weight", "final.norm.bias", "head.weight", "head.bias"),
            network.head.parameters(),
            strict=True,
        )
    )
    whole.load_state_dict(network.encoder.state_dict() | head)
    torch.testing.assert_close(model(PIXELS), whole(model.normalize(PIXELS)), rtol=1e-4, atol=1e-4)


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(
        InputError, match="head must be one of linear, linear_with_intercept, affine, not 'cosine'"
    ):
        build_feature_classifier(
            "scattering", image_shape=(3, 16, 16), class_names="ab", options={}, mirror=False, head="cosine"
        )


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_norm_is_refused(norm: float) -> None:
    with pytest.raises(InputError, match="feature_norm must be above 0 and finite"):
        build_feature_classifier(
            "scattering",
            image_shape=(3, 16, 16),
            class_names="ab",
            options={},
            mirror=False,
            feature_norm=norm,
        )


def test_features_have_the_norm_asked_for() -> None:
    model = build_feature_classifier(
        "scattering", image_shape=(3, 16, 16), class_names="ab", options={}, mirror=True, feature_norm=16.0
    )
    torch.testing.assert_close(features_of(model, PIXELS).norm(dim=1), torch.full((7,), 16.0))
    assert model.config is not None
    again = rebuild_classifier(model.config)
    torch.testing.assert_close(features_of(again, PIXELS), features_of(model, PIXELS))


@pytest.mark.parametrize("head", ["linear", "affine"])
def test_the_whole_of_it_has_clipped_gradients(head: Head) -> None:
    """Against the gradient of each example by itself, in the encoder too."""
    model = build_feature_classifier(
        "random-wrn-10-1",
        image_shape=(3, 16, 16),
        class_names="ab",
        options={"cells": 2},
        mirror=True,
        head=head,
    ).requires_grad_(True)
    torch.nn.init.normal_(list(network_of(model).head.parameters())[-1 if head == "linear" else 2])
    views, targets = PIXELS.unsqueeze(1).float() / 255, torch.arange(7) % 2

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    found = clipped_gradient_sum(model, loss, views, targets, 0.5, precision="float32").gradients
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for view, target in zip(views, targets, strict=True):
        model.zero_grad()
        loss(model(view), target.view(1)).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
        for name, gradient in gradients.items():
            total[name] += gradient * min(1.0, 0.5 / float(norm))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient.float(), total[name], rtol=2e-3, atol=2e-4)


def test_mirror_images_are_alike_only_where_that_is_asked() -> None:
    mirrored = PIXELS.flip(3)
    torch.testing.assert_close(
        features_of(classifier(mirror=True), PIXELS), features_of(classifier(mirror=True), mirrored)
    )
    plain = classifier()
    assert not torch.allclose(features_of(plain, PIXELS), features_of(plain, mirrored), atol=1e-3)
    # Both images count: the sum of their features, brought to norm one.
    normalized, encoder = plain.normalize(PIXELS), network_of(plain).encoder
    both = encoder(normalized) + encoder(normalized.flip(3))
    expected = torch.nn.functional.normalize(both, dim=1)
    torch.testing.assert_close(features_of(classifier(mirror=True), PIXELS), expected)


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
        features_of(model, PIXELS)
