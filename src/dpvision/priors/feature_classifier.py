"""A linear classifier on the features of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.networks import Classifier, build_classifier
from dpvision.priors.encoder import Encoder
from dpvision.priors.encoders import build_encoder
from dpvision.privacy.errors import InputError

KIND = "encoder"
"""What the config of such a classifier has for a network."""

IMAGES_AT_A_TIME = 500


class FeatureClassifier(nn.Module):
    """``[B, C, H, W] -> [B, D] -> [B, num_classes]``: features of norm one, then a linear layer without bias.

    The layer begins at zero, so that all classes are equally likely. A norm of one bounds what an example can
    do to its gradient, and clipping has little to lose.

    Args:
        encoder: frozen.
        num_classes: the number of logits.
        mirror: add the features of the mirrored image. Then an image and its mirror image are alike to the
            head, which thereby has half as many directions to learn in.
    """

    def __init__(self, encoder: Encoder, num_classes: int, mirror: bool) -> None:
        super().__init__()
        self.encoder, self.mirror = encoder, mirror
        self.head = nn.Linear(encoder.out_features, num_classes, bias=False)
        nn.init.zeros_(self.head.weight)

    def features(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, D]``, of norm one (zero where the encoder sees nothing)."""
        found = self.encoder(x)
        if self.mirror:
            found = found + self.encoder(x.flip(3))
        return F.normalize(found, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def build_feature_classifier(
    encoder: str,
    *,
    image_shape: Sequence[int],
    class_names: Sequence[str],
    options: dict[str, Any],
    mirror: bool,
) -> Classifier:
    """A classifier with a new head on the encoder of that name; InputError as :func:`build_encoder`."""
    return _classifier(build_encoder(encoder, image_shape, **options), class_names, mirror)


def rebuild_classifier(config: dict[str, Any]) -> Classifier:
    """The classifier of that config (:attr:`Classifier.config`), up to its weights, of either kind.

    Raises:
        InputError: a network, encoder or option that does not exist.
        KeyError, TypeError: it is the config of no classifier.
    """
    if config["network"] != KIND:
        return build_classifier(**config)
    return _classifier(build_encoder(**config["encoder"]), config["class_names"], config["mirror"])


@torch.no_grad()
def encoded(model: Classifier, pixels: Tensor) -> Tensor:
    """The features ``[N, D]`` of images uint8 ``[N, C, H, W]``, on the device of the model.

    Raises:
        InputError: the model is not on the features of an encoder.
    """
    if not isinstance(model.network, FeatureClassifier):
        raise InputError("only a classifier on the features of an encoder has features to compute")
    device = model.network.head.weight.device
    pieces = pixels.split(IMAGES_AT_A_TIME)
    return torch.cat([model.network.features(model.normalize(some.to(device))) for some in pieces])


def _classifier(encoder: Encoder, class_names: Sequence[str], mirror: bool) -> Classifier:
    channels, height, width = encoder.config["image_shape"]
    config = {
        "network": KIND,
        "encoder": encoder.config,
        "class_names": list(class_names),
        "mirror": mirror,
    }
    network = FeatureClassifier(encoder, len(class_names), mirror)
    return Classifier(network, class_names, (channels, height, width), config)
