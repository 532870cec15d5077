"""Let classes count otherwise than by how many images they have: by noisy counts, or by public weights.

A classifier that learns from few images of a class, under noise, nearly never says that class. Adding the
logarithm of a weight to each class's logit makes it say what it would of images whose classes came so many
times as often (Saerens et al., 2002; Menon et al., arXiv 2007.07314, section 4). It is done to the finished
classifier, so that training is what it was. Weights of the gradients were worse at the same accuracy: before
the clip they are cut off, and after it they multiply what one image may change.

Guarantee:
    Public weights read nothing of the images. With "balanced" the counts of the classes are one Gaussian
    release more, a stage of its own in the account; all the rest follows from what was released. One image
    more or less changes one count by 1. Another in its place takes 1 from one count and gives it to another,
    √2 in L2 norm. A unit counts in each class the share of its images that are of it: these shares are not
    negative and add up to one, so that their L2 norm is at most 1, and those of two units are at most √2
    apart. ``tests/methods/test_sums_of_units.py`` tries to move the counts further, and
    ``tests/testing/test_methods.py`` and ``test_units.py`` replay such runs on neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpvision.images import ImageSet
from dpvision.methods.class_weight_settings import BALANCED, NONE, ClassWeightSettings, CountSettings
from dpvision.methods.method import Finished, Learned
from dpvision.methods.session import Session
from dpvision.methods.stages import Stage, precision
from dpvision.networks import Classifier
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.mechanisms import GaussianSumMechanism
from dpvision.privacy.sampling import FullBatch

SENSITIVITY, REPLACE_ONE_RATIO = 1.0, math.sqrt(2)

ROUNDING_MARGIN = 1e-6
"""The share by which shares are shrunk: those of a unit may add up to more than one by a rounding error, and
so may the counts with and without it differ.
"""

SMOOTHING = 1.0
"""How many standard deviations of the noise are added to every count: classes that the noise drowns are taken
for about equally frequent. With two, rare classes were found less often, by up to 0.8 points; with a half,
accuracy was lower by 1.4 with 2,500 images of ten classes at ε = 0.5, and elsewhere by up to 0.3.
"""


def with_counts(settings: CountSettings, facts: PublicFacts, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return a run's stages, with that of the counts as the last if the settings ask for it: who learns can
    then find out what cannot be done before anything is spent.

    Raises:
        InputError: weights are of other classes than the run's.
    """
    settings.check_class_names(facts.class_names)
    if settings.class_weight != BALANCED:
        return tuple(stages)
    noise = math.sqrt((1 / settings.class_count_share - 1) / precision(stages))
    mechanism = GaussianSumMechanism(noise, SENSITIVITY, FullBatch(facts.num_examples), REPLACE_ONE_RATIO)
    return (*stages, Stage("the counts of the classes", mechanism, 1))


def with_counts_learned(settings: CountSettings, session: Session, number: int, learned: Learned) -> Learned:
    """Release the counts if the settings ask for it, as the stage ``number``, and return them with what else
    was learned.
    """
    if settings.class_weight != BALANCED:
        return learned
    num_classes = len(session.facts.class_names)

    def sums_of(images: ImageSet) -> dict[str, Tensor]:
        assert images.labels is not None  # a method that needs labels gets them
        shares = None if images.units is None else images.units.shares
        return {"counts": class_counts(images.labels, num_classes, shares)}

    released = session.release(number, sums_of, {"counts": torch.zeros(num_classes)})
    counts = {"noisy": released["counts"].tolist(), "noise": session.stages.stages[number].deviation}
    return replace(learned, facts={**learned.facts, "class_counts": counts})


def class_counts(labels: Tensor, num_classes: int, shares: Tensor | None = None) -> Tensor:
    """Count the images of each class, float64 ``[num_classes]``.

    Guarantee: one image more moves the counts by at most `SENSITIVITY` in L2 norm, another in its place by
    `REPLACE_ONE_RATIO` times as much; so does one unit more, or another, of any number of images, if
    ``shares`` are those of :class:`dpvision.images.Units`. ``tests/methods/test_sums_of_units.py`` tries to
    move them further.

    Args:
        labels: int64 ``[N]``.
        num_classes: K.
        shares: float64 ``[N]``, what each counts; by default 1, whose sums are exact.
    """
    counted = torch.ones(len(labels), dtype=torch.float64)
    if shares is not None:
        counted = (1 - ROUNDING_MARGIN) * shares.cpu()
    # Sums by pairs, whose rounding grows with log N; bincount's would with N.
    of_class = [counted[labels.cpu() == label].sum() for label in range(num_classes)]
    return torch.stack(of_class)


def smoothed(noisy_counts: Tensor, noise: float) -> Tensor:
    """Estimate the counts of the classes from noisy ones, all above zero, with `SMOOTHING` times the noise's
    standard deviation more in each: the more noise there is, the nearer to equal ones are their shares.
    """
    return noisy_counts.double().clamp(min=0) + SMOOTHING * noise


def weigh(settings: CountSettings, learned: Learned, finished: Finished) -> Finished:
    """Give a finished classifier the weights of its classes, and its card what they are."""
    model = finished.model
    assert isinstance(model, Classifier)
    if settings.class_weight == NONE:
        return finished
    found = learned.facts.get("class_counts")
    counts = smoothed(torch.tensor(found["noisy"]), found["noise"]) if found else None
    weights = weights_of(settings, model.class_names, counts)
    model.shift(weights.log().tolist())
    return replace(finished, card={**finished.card, **card_of(settings, model.class_names, counts)})


def weights_of(settings: ClassWeightSettings, class_names: Sequence[str], counts: Tensor | None) -> Tensor:
    """Return the weight of each class, float64 ``[num_classes]``: those of the settings, or those with which
    all classes count the same.

    Args:
        counts: of the classes, `smoothed`, where weights are to balance them.
    """
    if isinstance(settings.class_weight, Mapping):
        return torch.tensor([settings.class_weight[name] for name in class_names], dtype=torch.float64)
    assert counts is not None, "nothing else weighs classes"
    return counts.mean() / counts


def card_of(
    settings: ClassWeightSettings, class_names: Sequence[str], counts: Tensor | None
) -> dict[str, Any]:
    """Return what the card says of weights: all of it is public, or follows from noisy counts."""

    def by_class(numbers: Tensor) -> dict[str, float]:
        return {name: float(f"{one:.4g}") for name, one in zip(class_names, numbers.tolist(), strict=True)}

    shares = None
    if counts is not None and settings.class_weight == BALANCED:
        shares = by_class(counts / counts.sum())
    weights = weights_of(settings, class_names, counts)
    return {"class_weight": {"weights": by_class(weights), "noisy_shares": shares}}
