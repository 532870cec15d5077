"""Share code among the methods that learn a head on the features of an encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dpvision.images import Images
from dpvision.images.rows_on_disk import fit_memory, gathered
from dpvision.methods.session import Session
from dpvision.networks import Classifier
from dpvision.networks.by_row import rows_at_a_time
from dpvision.priors.encoders import fit_once
from dpvision.priors.feature_classifier import (
    FeatureClassifier,
    build_feature_classifier,
    encoded_parts,
)
from dpvision.privacy.facts import PublicFacts

PRIOR = "wrn-10-4-small"
"""The bundled prior that these methods begin with."""

TRIAL_SECONDS, MOST_TRIED = 0.25, 2048
"""A trial of an encoder lasts so long, or has so many images."""


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Settings that choose the features.

    Attributes:
        encoder: names the frozen, public encoder that turns images into features; the package has
            priors, that `dpvision prior list` lists, patches, scattering and pixels.
        encoder_options: are passed to the encoder, as :func:`dpvision.priors.build_encoder` lists them.
        mirror: adds the features of the mirrored image, so that left and right are alike to the head.
    """

    encoder: str
    encoder_options: dict[str, Any] = field(default_factory=dict)
    mirror: bool = False

    def head_options(self) -> dict[str, Any]:
        """Return ``head`` and ``feature_norm`` of :func:`build_feature_classifier`, if the method
        fixes them.
        """
        return {}

    def build_model(self, facts: PublicFacts, fit: bool = True) -> Classifier:
        """Build the encoder with a new head, fitted or for its shapes alone. InputError as
        :func:`build_feature_classifier`.
        """
        return build_feature_classifier(
            self.encoder,
            image_shape=facts.image_shape,
            class_names=facts.class_names,
            options=self.encoder_options,
            mirror=self.mirror,
            fit=fit,
            **self.head_options(),
        )


def public_model(
    config: EncoderSettings, session: Session, begin: Callable[[Classifier], None] | None = None
) -> Classifier:
    """Build the model on the session's device.

    Args:
        config: says which.
        session: the session.
        begin: gives it its weights, also those of the encoder, which by default is fitted.

    Raises:
        InputError: its encoder was learned from the session's own images.
    """
    model = config.build_model(session.facts, fit=False)
    encoder = features_of(model).encoder
    session.refuse_own(encoder)
    if begin is not None:
        begin(model.to(session.device))
        return model
    fit_once(encoder.to(session.device), partial(session.tell, "looking at random processes"))
    session.agree(encoder)
    return model.to(session.device)


def features_of(model: Classifier) -> FeatureClassifier:
    """Return the part of a model of `public_model` that has the encoder and the head."""
    assert isinstance(model.network, FeatureClassifier)
    return model.network


def features_memory(model: Classifier, num_examples: int, features: Tensor) -> int:
    """Return the bytes of memory that features like these take of all images, none where they are kept in a
    file, and the fit of their encoder.
    """
    size = num_examples * features.shape[1] * features.element_size()
    kept = size if fit_memory(size, features.device) else 0
    return kept + features_of(model).encoder.bytes_to_fit


def trial_features(model: Classifier) -> tuple[Tensor, float]:
    """Return features of random images, as many as take some time, and the seconds that one image took."""
    device = model.normalize.mean.device
    at_a_time = rows_at_a_time(device)
    count = at_a_time * (torch.get_num_threads() if device.type == "cpu" else 1)
    while True:
        pixels = torch.randint(256, (count, *model.image_shape), dtype=torch.uint8)
        started = perf_counter()
        images = Images(pixels, None, (), "random images")
        features = gathered(encoded_parts(model, images), count)
        seconds = perf_counter() - started
        if seconds >= TRIAL_SECONDS or count >= MOST_TRIED:
            return features, seconds / (count + 2 * at_a_time)  # with the two batches of `by_row`'s own trial
        count *= 4
