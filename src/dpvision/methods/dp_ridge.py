"""A private linear head from sufficient statistics: ONE noisy release of second moment, class sums and class
counts of a frozen encoder's features, then ridge regression on what was released (Wang, arXiv 1803.02596,
with another rule for the regulariser).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.images import Images
from dpvision.methods.estimates import Estimate
from dpvision.methods.features import PRIOR, EncoderSettings, trial_features
from dpvision.methods.gradient_descent import Checkpoints
from dpvision.methods.settings import with_overrides
from dpvision.methods.stages import Stage, TrainingPlan
from dpvision.networks import Classifier
from dpvision.priors.feature_classifier import encoded
from dpvision.privacy.account import Account
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.noise import RandomSource
from dpvision.privacy.sampling import FullBatch
from dpvision.training import StepStatistics, check_tensors

COUNT_WEIGHT = 0.5
"""b below. At least 1/2, so that the √2 of `REPLACE_ONE_RATIO` holds."""

SENSITIVITY = math.sqrt(2 + COUNT_WEIGHT**2)
"""Of :func:`sufficient_statistics`, in L2 over all of it. An example (x, y) with ‖x‖ ≤ 1 and y one-hot adds
[xxᵀ; x⊗y; b·y], and the upper triangle that is released has the norm of the whole matrix, ‖xxᵀ‖ = ‖x‖². So
the squared norm is at most 1 + 1 + b².
"""

REPLACE_ONE_RATIO = math.sqrt(2)
"""Of the sensitivity to a replaced example. Of another class: ‖xxᵀ − x′x′ᵀ‖² is at most 2, as are the class
sums, and the counts add 2b². Of the same, with c = x·x′: at most 2 − 2c² + 2 − 2c ≤ 4 + 1/2. Both are at most
2·(2 + b²) for b ≥ 1/2.
"""

ROUNDING_MARGIN = 1e-5
"""Features are shrunk by this share: their norms must not exceed one by a rounding error."""

EXAMPLES_AT_A_TIME = 4096


class DPRidgeConfig(EncoderSettings):
    """Everything public about a run but the data and the budget: see :class:`EncoderSettings`."""

    def head_options(self) -> dict[str, Any]:
        return {"head": "linear_with_intercept"}


def stages(config: DPRidgeConfig, num_examples: int, noise_multiplier: float) -> tuple[Stage, ...]:
    """All that a run releases."""
    mechanism = GaussianSumMechanism(
        noise_multiplier, SENSITIVITY, FullBatch(num_examples), REPLACE_ONE_RATIO
    )
    return (Stage("second moment, class sums and class counts of the features", mechanism, 1),)


def sufficient_statistics(features: Tensor, labels: Tensor, num_classes: int) -> dict[str, Tensor]:
    """All that ridge regression needs of features ``[N, D]``, ‖x‖ ≤ 1, and labels ``[N]``.

    Returns:
        float64, for rounding of the sums depends on all examples: "moment", the upper triangle of Σ xxᵀ
        ``[D(D + 1)/2]`` with the entries off the diagonal times √2; "sums", Σ x of each class ``[num_classes,
        D]``; "counts", their sizes times b ``[num_classes]``.
    """
    num_features = features.shape[1]
    moment = features.new_zeros(num_features, num_features, dtype=torch.float64)
    sums = features.new_zeros(num_classes, num_features, dtype=torch.float64)
    one_hot = F.one_hot(labels, num_classes).double()
    for some, classes in zip(
        features.split(EXAMPLES_AT_A_TIME), one_hot.split(EXAMPLES_AT_A_TIME), strict=True
    ):
        some = some.double() * (1 - ROUNDING_MARGIN)
        moment.addmm_(some.T, some)
        sums.addmm_(classes.T, some)
    triangle = moment[_upper(moment)]
    return {
        "moment": triangle * _isometric(moment),
        "sums": sums,
        "counts": COUNT_WEIGHT * one_hot.sum(dim=0),
    }


def exact_sums(model: Classifier, images: Images) -> dict[str, Tensor]:
    """What is released of images, without noise: private."""
    assert images.labels is not None  # they were checked when the run was prepared
    features = encoded(model, images.pixels)
    return sufficient_statistics(features, images.labels.to(features.device), len(images.class_names))


def ridge(noisy: Mapping[str, Tensor], num_examples: int, noise: float) -> tuple[Tensor, Tensor]:
    """Weights ``[num_classes, D]`` and intercepts ``[num_classes]`` from the noisy statistics.

    The regulariser is the largest eigenvalue that the noise alone is expected to have, √2·noise·√D for a
    symmetric matrix with noise of variance noise²/2 off the diagonal (Wigner): what the noise drowns counts
    for little. Eigenvalues that the noise made negative count as zero. The intercepts make the mean
    prediction the (noisy) share of each class.

    Args:
        noisy: :func:`sufficient_statistics` with noise.
        num_examples: N, declared public.
        noise: its standard deviation.
    """
    sums, counts = noisy["sums"].double(), noisy["counts"].double() / COUNT_WEIGHT
    num_features = sums.shape[1]
    upper = sums.new_zeros(num_features, num_features)
    upper[_upper(upper)] = noisy["moment"].double() / _isometric(upper)
    moment = upper + upper.triu(1).T
    edge = math.sqrt(2 * num_features) * noise
    values, vectors = torch.linalg.eigh(moment)
    weights = sums @ vectors / (values.clamp(min=0) + edge) @ vectors.T
    mean = sums.sum(dim=0) / num_examples
    return weights.float(), (counts / num_examples - weights @ mean).float()


def train(
    model: Classifier,
    images: Images,
    config: DPRidgeConfig,
    plan: TrainingPlan,
    account: Account,
    random: RandomSource,
    *,
    checkpoints: Checkpoints | None = None,
    on_step: Callable[[StepStatistics], None] | None = None,
) -> int:
    """Fit the model's head in place; returns 0, for no release is lost. There are no steps to be told of.

    Raises:
        InputError: the release was paid for by a process that ended before it could keep what was released;
            or what was kept is of another run.
    """
    (stage,) = plan.stages
    head = model.network.get_submodule("head")
    assert isinstance(head, torch.nn.Linear)
    released = _blank(head.in_features, len(images.class_names))
    noisy = checkpoints.load() if checkpoints else None
    if noisy is not None:
        try:
            check_tensors(noisy, released)
        except ValueError as error:
            raise InputError(f"checkpoint: it is of another run, or damaged ({error})") from error
    else:
        if account.left(stage.mechanism.event) == 0:
            raise InputError(
                "the one release of this run was paid for but lost with an interrupted process; "
                "start a new run, within what the budget leaves"
            )
        exact = exact_sums(model, images)
        if checkpoints:
            checkpoints.reserve(sum(tensor.nbytes for tensor in released.values()))
        released = noisy = stage.mechanism.release(exact, account, random.at("noise", 0))
        if checkpoints:
            checkpoints.save(lambda: released, final=True)
    with torch.no_grad():
        weights, intercepts = ridge(noisy, plan.num_examples, stage.mechanism.standard_deviation)
        head.weight.copy_(weights)
        head.bias.copy_(intercepts)
    return 0


def default_config(
    num_examples: int,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    budget: Budget,
    device: torch.device | str,
    overrides: Mapping[str, Any],
) -> DPRidgeConfig:
    """A full configuration: ``overrides`` where given, the rest chosen by the data's public facts.

    Raises:
        InputError: an override does not exist or is out of range.
    """
    # Noise falls on every pair of features: the richer encoders of dp-randp would not pay for theirs.
    return with_overrides(DPRidgeConfig(encoder=PRIOR, mirror=image_shape[0] == 3), overrides)


def estimate(
    config: DPRidgeConfig,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    num_examples: int,
    device: torch.device | str,
) -> Estimate:
    """Expected time and memory of a run, from a trial on random images. InputError as
    :func:`build_feature_classifier`.
    """
    features, encoding = trial_features(config.build_model(image_shape, class_names).to(device))
    count, num_features = features.shape
    started = perf_counter()
    labels = torch.arange(count, device=device) % len(class_names)
    statistics = sufficient_statistics(features, labels, len(class_names))
    summing = (perf_counter() - started) / count
    started = perf_counter()
    ridge(statistics, count, noise=1.0)
    seconds = num_examples * (encoding + summing) + perf_counter() - started
    pixels = num_examples * math.prod(image_shape)
    return Estimate(seconds, pixels + 4 * num_examples * num_features + 8 * 4 * num_features**2)


def _blank(num_features: int, num_classes: int) -> dict[str, Tensor]:
    """Zeros in the place of what a run releases."""
    return {
        "moment": torch.zeros(num_features * (num_features + 1) // 2),
        "sums": torch.zeros(num_classes, num_features),
        "counts": torch.zeros(num_classes),
    }


def _upper(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of the upper triangle."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), device=matrix.device)
    return rows, columns


def _isometric(matrix: Tensor) -> Tensor:
    """What makes the norm of the upper triangle that of the whole symmetric matrix: √2 off the diagonal."""
    rows, columns = _upper(matrix)
    return torch.where(rows == columns, 1.0, math.sqrt(2)).to(matrix)
