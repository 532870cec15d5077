"""A private linear head from sufficient statistics: ONE noisy release of second moment, class sums and class
counts of a frozen encoder's features, then ridge regression on what was released (Wang, arXiv 1803.02596,
with another rule for the regulariser).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.images import ImageSet
from dpvision.images.rows_on_disk import RowsOnDisk
from dpvision.methods.class_weight_settings import NONE, ClassWeightSettings
from dpvision.methods.class_weights import card_of, smoothed, weights_of
from dpvision.methods.estimates import Estimate
from dpvision.methods.features import (
    PRIOR,
    EncoderSettings,
    features_memory,
    features_of,
    public_model,
    trial_features,
)
from dpvision.methods.method import Finished, Learned, Makes, Workplace
from dpvision.methods.session import Session
from dpvision.methods.settings import with_overrides
from dpvision.methods.stages import Stage
from dpvision.priors.feature_classifier import encoded
from dpvision.privacy.budget import Budget
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.sampling import FullBatch
from dpvision.privacy.triangles import Triangle

COUNT_WEIGHT = 0.5
"""The weight b below. At least 1/2, so that the √2 of `REPLACE_ONE_RATIO` holds."""

SENSITIVITY = math.sqrt(2 + COUNT_WEIGHT**2)
"""The L2 sensitivity of all of :func:`sufficient_statistics` together. An example (x, y) with ‖x‖ ≤ 1 and y
one-hot adds [xxᵀ; x⊗y; b·y]. The upper triangle that is released has the norm of the whole matrix, ‖xxᵀ‖ =
‖x‖². So the squared norm is at most 1 + 1 + b².

A unit of several examples adds the mean of what they would add, which is no longer than the longest of these.
"""

REPLACE_ONE_RATIO = math.sqrt(2)
"""The sensitivity to a replaced example over SENSITIVITY. For an example of another class, ‖xxᵀ − x′x′ᵀ‖² is
at most 2, as are the class sums, and the counts add 2b². For one of the same class, with c = x·x′, it is at
most 2 − 2c² + 2 − 2c ≤ 4 + 1/2. Both are at most 2·(2 + b²) for b ≥ 1/2.

A replaced unit moves from one mean to another, which are no further apart than the furthest of what any two
examples add: the distance of two points is convex in each.
"""

ROUNDING_MARGIN = 1e-5
"""The share by which features are shrunk: their norms must not exceed one by a rounding error."""

EXAMPLES_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True)
class DPRidgeConfig(EncoderSettings, ClassWeightSettings):
    """Everything public about a run but the data and the budget: see :class:`EncoderSettings` and
    :class:`ClassWeightSettings`. The counts of the classes are part of what is released anyway.
    """

    def __post_init__(self) -> None:
        self.check_class_weight()

    def head_options(self) -> dict[str, Any]:
        return {"head": "linear_with_intercept"}


class DPRidge:
    """Fit a linear head to the noisy moments of features, released once (after Wang, arXiv 1803.02596)."""

    name = "dp-ridge"
    makes: Makes = "a classifier"
    needs_labels = True
    config_class: type = DPRidgeConfig

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPRidgeConfig:
        """Choose the bundled prior."""
        # Noise falls on every pair of features: the richer encoders of dp-randp would not pay for theirs.
        return with_overrides(DPRidgeConfig(encoder=PRIOR, mirror=facts.image_shape[0] == 3), overrides)

    def stages(self, config: DPRidgeConfig, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """Return one stage, with one release."""
        config.check_class_names(facts.class_names)
        sampler = FullBatch(facts.num_examples)
        mechanism = GaussianSumMechanism(noise_multiplier, SENSITIVITY, sampler, REPLACE_ONE_RATIO)
        return (Stage("second moment, class sums and class counts of the features", mechanism, 1),)

    def estimate(self, config: DPRidgeConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        classes = len(facts.class_names)
        model = config.build_model(facts, fit=False).to(device)
        features, encoding = trial_features(model)
        count = len(features)
        started = perf_counter()
        statistics = sufficient_statistics(features, torch.arange(count, device=device) % classes, classes)
        summing = (perf_counter() - started) / count
        started = perf_counter()
        ridge(statistics, count, noise=1.0)
        seconds = facts.num_examples * (encoding + summing) + perf_counter() - started
        seconds += features_of(model).encoder.images_to_fit * encoding
        pixels = facts.num_examples * math.prod(facts.image_shape)
        memory = pixels + features_memory(model, facts.num_examples, features)
        return Estimate(seconds, memory, encoding)

    def learn(self, config: DPRidgeConfig, session: Session) -> Learned:
        """Release the statistics."""
        model = public_model(config, session)
        classes = len(session.facts.class_names)

        def sums_of(images: ImageSet) -> dict[str, Tensor]:
            assert images.labels is not None  # a method that needs labels gets them
            features = encoded(model, images, partial(session.tell, "features"))
            shares = None if images.units is None else images.units.shares
            return sufficient_statistics(features, images.labels, classes, shares)

        blank = _blank(features_of(model).encoder.out_features, classes)
        noise = session.stages.noise_multiplier * SENSITIVITY
        return Learned(session.release(0, sums_of, blank), {"noise": noise})

    def finish(
        self, config: DPRidgeConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Fit the head to what was released."""
        model = config.build_model(facts)
        head = features_of(model).head
        assert isinstance(head, torch.nn.Linear)
        noise, class_weights, card = learned.facts["noise"], None, {}
        if config.class_weight != NONE:
            counts = class_counts(learned.tensors, noise)
            class_weights = weights_of(config, facts.class_names, counts)
            card = card_of(config, facts.class_names, counts)
        with torch.no_grad():
            weights, intercepts = ridge(learned.tensors, facts.num_examples, noise, class_weights)
            head.weight.copy_(weights)
            head.bias.copy_(intercepts)
        return Finished(model.to(workplace.device), card=card)


def sufficient_statistics(
    features: Tensor | RowsOnDisk, labels: Tensor, num_classes: int, shares: Tensor | None = None
) -> dict[str, Tensor]:
    """Compute all that ridge regression needs of features ``[N, D]``, ‖x‖ ≤ 1, and labels ``[N]``.

    Guarantee: one example more moves all of it by at most `SENSITIVITY` in L2 norm, another in its place by
    `REPLACE_ONE_RATIO` times as much, if the features of an example depend on that example alone and are no
    longer than one, rounding included up to `ROUNDING_MARGIN`; so does one unit more, or another, of any
    number of examples, if ``shares`` are those of :class:`dpvision.images.Units`.
    ``tests/methods/test_dp_ridge.py`` tries to move it further.

    Args:
        features, labels: see above.
        num_classes: K.
        shares: float64 ``[N]``, what each counts; by default 1.

    Returns:
        float64, for rounding of the sums depends on all examples: "moment", the :class:`Triangle` of Σ xxᵀ
        ``[D(D + 1)/2]``; "sums", Σ x of each class ``[num_classes,
        D]``; "counts", their sizes times b ``[num_classes]``.
    """
    num_features, device = features.shape[-1], features.device
    moment = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)
    sums = torch.zeros(num_classes, num_features, dtype=torch.float64, device=device)
    counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
    if shares is None:
        shares = torch.ones(len(labels), dtype=torch.float64)
    parts = (rows.split(EXAMPLES_AT_A_TIME) for rows in (features, labels, shares))
    for some, labels_of_some, share in zip(*parts, strict=True):
        share, some = share.to(device)[:, None], some.double() * (1 - ROUNDING_MARGIN)
        classes = share * F.one_hot(labels_of_some.to(device), num_classes)
        moment.addmm_((share * some).T, some)
        sums.addmm_(classes.T, some)
        counts += classes.sum(dim=0)
    return {
        "moment": Triangle.of(num_features, device).pack(moment[None])[0],
        "sums": sums,
        "counts": COUNT_WEIGHT * counts,
    }


def class_counts(noisy: Mapping[str, Tensor], noise: float) -> Tensor:
    """Estimate the classes' sizes, all above zero, from the noisy statistics; ``noise`` as for `ridge`."""
    return smoothed(noisy["counts"].double() / COUNT_WEIGHT, noise / COUNT_WEIGHT)


def ridge(
    noisy: Mapping[str, Tensor], num_examples: int, noise: float, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute weights ``[num_classes, D]`` and intercepts ``[num_classes]`` from the noisy statistics.

    The regulariser is the largest eigenvalue that the noise alone is expected to have, √2·noise·√D for a
    symmetric matrix with noise of variance noise²/2 off the diagonal (Wigner): what the noise drowns counts
    for little. Eigenvalues that the noise made negative count as zero. The intercepts make the mean
    prediction the (noisy) share of each class.

    Scores are about probabilities, not their logarithms. So the weight of a class, if it has one, multiplies
    its scores, and the intercepts make the mean prediction over images that come so many times the shares
    that the classes then have.

    Args:
        noisy: :func:`sufficient_statistics` with noise.
        num_examples: N, declared public.
        noise: its standard deviation.
        class_weights: ``[num_classes]``, how many times each image of a class counts; by default once.
    """
    sums, counts = noisy["sums"].double(), noisy["counts"].double() / COUNT_WEIGHT
    num_features = sums.shape[1]
    moment = Triangle.of(num_features, sums.device).unpack(noisy["moment"].double()[None])[0]
    edge = math.sqrt(2 * num_features) * noise
    values, vectors = torch.linalg.eigh(moment)
    curvatures = values.clamp(min=0) + edge
    weights = sums @ vectors / curvatures @ vectors.T
    if class_weights is None:
        mean = sums.sum(dim=0) / num_examples
        return weights.float(), (counts / num_examples - weights @ mean).float()
    counts = class_counts(noisy, noise)
    factors = class_weights * counts.sum() / (class_weights * counts).sum()
    shares = factors * counts / counts.sum()
    # The noise of a class's sum is in its weights too, and adds its own square to what they say of the class.
    own = noise**2 * (1 / curvatures).sum() * torch.eye(len(sums), dtype=torch.float64)
    weights *= factors[:, None]
    means = (weights @ sums.T - factors * own) / counts  # of the scores (rows) over a class (columns)
    return weights.float(), (shares - means @ shares).float()


def _blank(num_features: int, num_classes: int) -> dict[str, Tensor]:
    """Return zeros in the place of what a run releases."""
    return {
        "moment": torch.zeros(num_features * (num_features + 1) // 2),
        "sums": torch.zeros(num_classes, num_features),
        "counts": torch.zeros(num_classes),
    }
