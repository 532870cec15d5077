"""A linear classifier on the features of an encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dpvision.images import ImageSet
from dpvision.images.conversion import MAX_PIXELS
from dpvision.images.indexed import indexed_if_any
from dpvision.images.public import Overlaps
from dpvision.images.rows_on_disk import RowsOnDisk, kept_rows
from dpvision.networks import Classifier, build_classifier
from dpvision.networks.by_row import by_row
from dpvision.priors.encoders import Encoder, build_encoder, rebuild_encoder
from dpvision.priors.phase_one.prior_file import learned_from
from dpvision.priors.remembered import remembered
from dpvision.privacy.errors import InputError

KIND = "encoder"
"""The name that stands for the network in the config of such a classifier."""

Head = Literal["linear", "linear_with_intercept", "affine"]


class Affine(nn.Module):
    """``[B, D] -> [B, D]``: a learned scale and shift of each feature.

    It is what a GroupNorm learns: encoders normalise before they average over positions, and scale and shift
    may as well come after.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class FeatureClassifier(nn.Module):
    """``[B, C, H, W] -> [B, D] -> [B, num_classes]``: features of an encoder, then a linear layer.

    The layer begins at zero, so that all classes are equally likely.

    Args:
        encoder: frozen, until somebody thaws it.
        num_classes: the number of logits.
        mirror: add the features of the mirrored image. Then an image and its mirror image are alike to the
            head, which thereby has half as many directions to learn in.
        head: "linear", a linear layer without bias on features of one norm, which bounds what an example can
            do to its gradient, so that clipping has little to lose; "linear_with_intercept", the same with a
            bias; or "affine", the GroupNorm and linear layer of Tang et al. (arXiv 2306.06076, section 3), on
            features as they come.
        feature_norm: the norm for linear heads. Beside an encoder that learns too, the larger it is, the more
            of a clipped gradient is the head's.
    """

    def __init__(
        self, encoder: Encoder, num_classes: int, mirror: bool, head: Head, feature_norm: float
    ) -> None:
        super().__init__()
        if head not in get_args(Head):
            raise InputError(f"head must be one of {', '.join(get_args(Head))}, not '{head}'")
        self.encoder, self.mirror = encoder, mirror
        if not 0 < feature_norm < math.inf:
            raise InputError(f"feature_norm must be above 0 and finite, not {feature_norm}")
        self.feature_norm = None if head == "affine" else feature_norm
        linear = nn.Linear(encoder.out_features, num_classes, bias=head != "linear")
        for parameter in linear.parameters():
            nn.init.zeros_(parameter)
        self.head = nn.Sequential(Affine(encoder.out_features), linear) if head == "affine" else linear

    def features(self, x: Tensor) -> Tensor:
        """Compute features, ``[B, C, H, W] -> [B, D]``, of feature_norm if the head is linear (zero where the
        encoder sees nothing).
        """
        found = self.encoder(x)
        if self.mirror:
            found = found + self.encoder(x.flip(3))
        return found if self.feature_norm is None else self.feature_norm * F.normalize(found, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def build_feature_classifier(
    encoder: str,
    *,
    image_shape: Sequence[int],
    class_names: Sequence[str],
    options: dict[str, Any],
    mirror: bool,
    head: Head = "linear",
    feature_norm: float = 1.0,
    fit: bool = True,
) -> Classifier:
    """Return a classifier with a new head on the encoder of that name, fitted or for its shapes alone;
    InputError as :func:`build_encoder` and :class:`FeatureClassifier`.
    """
    built = build_encoder(encoder, image_shape, fit=fit, **options)
    return _classifier(built, class_names, mirror=mirror, head=head, feature_norm=feature_norm)


def rebuild_classifier(config: dict[str, Any]) -> Classifier:
    """Return the classifier of that config (:attr:`Classifier.config`), up to its weights, of either kind.

    Raises:
        InputError: a network, encoder or option that does not exist.
        KeyError, TypeError, …: it is the config of no classifier.
    """
    of_encoder = config["network"] == KIND
    channels, height, width = (config["encoder"] if of_encoder else config)["image_shape"]
    if channels not in (1, 3) or not 1 <= height * width <= MAX_PIXELS:
        raise InputError(f"there are no images of shape {[channels, height, width]}")
    if not isinstance(config["class_names"], list):
        raise InputError("its class_names are no list")
    if not of_encoder:
        return build_classifier(**config)
    options = {name: config[name] for name in ("mirror", "head", "feature_norm")}
    model = _classifier(rebuild_encoder(config["encoder"]), config["class_names"], **options)
    if "offsets" in config:
        model.shift(config["offsets"])
    return model


def refuse_own_encoder(encoder: Encoder, images: ImageSet, overlaps: Overlaps) -> None:
    """Check that the encoder was learned from none of these very images, as if they were public.

    Of an encoder that was learned on another machine it is only known if it was learned from all of them.

    Raises:
        InputError: it was, and that is not allowed.
    """
    learned: set[str] = set()
    for part in encoder.modules():
        if isinstance(part, Encoder):
            learned |= learned_from(part.provenance)
    if not learned:
        return
    known = indexed_if_any(images)
    uses = known.index.public_uses(known.identities) if known else set()
    if learned & {images.pixel_digest, *uses}:
        overlaps.refuse(
            f"the encoder {encoder.config['name']} was learned from private images, outside the budget",
            f"encoder {encoder.config['name']} was learned from the private images themselves, or some of "
            f"them ({images.source}), outside any privacy budget; choose one that was learned from others",
        )


@remembered
def encoded(
    model: Classifier, images: ImageSet, tell: Callable[[int, int], None] | None = None
) -> Tensor | RowsOnDisk:
    """Return the features ``[N, D]`` of images, on the device of the model; where they are large for its
    memory, in a file. ``tell`` is given how many are done, and how many there are.

    Raises:
        InputError: as :func:`encoded_parts`; or there is no room for the file.
    """
    parts = encoded_parts(model, images)
    return kept_rows(parts, len(images), tell and (lambda done: tell(done, len(images))))


def encoded_parts(model: Classifier, images: ImageSet) -> Iterator[Tensor]:
    """Yield the features of all images ``[n, D]``, on the device of the model, some at a time. Those of an
    image do not depend on the others.

    Raises:
        InputError: the model is not on the features of an encoder.
    """
    if not isinstance(model.network, FeatureClassifier):
        raise InputError("only a classifier on the features of an encoder has features to compute")
    network, normalize = model.network, model.normalize

    @torch.no_grad()
    def features(rows: Tensor) -> Tensor:
        return network.features(normalize(rows))

    return by_row(
        features,
        images.blocks,
        images.shape,
        normalize.mean.device,
        concurrent=network.encoder.concurrent,
    )


def _classifier(encoder: Encoder, class_names: Sequence[str], **options: Any) -> Classifier:
    channels, height, width = encoder.config["image_shape"]
    config = {
        "network": KIND,
        "encoder": encoder.config,
        "class_names": list(class_names),
        **options,
    }
    network = FeatureClassifier(encoder, len(class_names), **options)
    return Classifier(network, class_names, (channels, height, width), config)
