"""Measure how well a run's release tells the images that it learned from, from others."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpvision.api.accounts import check_unchanged
from dpvision.api.config import RunConfig, Sources
from dpvision.api.devices import resolve_device
from dpvision.api.options import check_shadow_models
from dpvision.api.sources import Reading, Source, fitting_reading
from dpvision.api.using import choices_of, load_classifier
from dpvision.evaluation.blind import Blind, blind_attack
from dpvision.evaluation.membership import (
    Attack,
    attacks,
    centred_by_class,
    confidences,
    lira_scores,
    mean_of_groups,
)
from dpvision.images import ImageSet, available_splits
from dpvision.images.joined import Joined
from dpvision.images.public import Overlaps
from dpvision.images.units import refuse_units_of_both
from dpvision.methods import at_noise
from dpvision.networks import Classifier
from dpvision.privacy import Account, InputError, SecureRandom
from dpvision.runs import Progress, RunDirectory
from dpvision.runs.files import read_json
from dpvision.runs.places import find_release
from dpvision.views import Pool

logger = logging.getLogger("dpvision")

NOTICE = "private: measured on the private images without noise, and not covered by epsilon; do not publish"


@dataclass(frozen=True)
class Membership:
    """Membership inference against a release: how well it tells members from non-members.

    Attributes:
        notice: says that none of this may be published.
        epsilon, delta: what the release claims.
        members, non_members: the number of images, or units, of each kind.
        shadow_models: the number of models that were trained for the scores that need them.
        attacks: the results, one for each kind of score.
        blind: how well the images alone tell members from non-members, without the model: what the AUC of
            an attack must be compared with. None where there are too few to say.
        warning: what follows, where the two sets are seen to differ in kind; else None.
    """

    notice: str
    epsilon: float
    delta: float
    members: int
    non_members: int
    shadow_models: int
    attacks: tuple[Attack, ...]
    blind: Blind | None
    warning: str | None


def membership(
    run: str | os.PathLike[str],
    members: Source | None = None,
    non_members: Source | None = None,
    *,
    shadow_models: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> Membership:
    """Run membership inference against a run's classifier. It spends nothing and writes nothing; the result
    is private.

    Without shadow models there are two scores of an image, from the released classifier alone: "confidence",
    log p/(1 − p) of its label's probability p, and the same "by class", less the median of the image's class.
    With shadow models there is online LiRA, too (Carlini et al., arXiv 2112.03570, Algorithm 1). Where the
    images are of units, units are attacked: by the mean of these scores over their images, and by the sum of
    LiRA's. Beside them there is the blind attack, which has the images alone (Das et al., arXiv 2406.16201):
    if it does better than guessing, the two sets differ in kind, and a warning says so.

    Args:
        run: a run's directory, or its release directory with ``members`` and ``non_members``.
        members: the images that it learned from; by default those that the run says.
        non_members: images of the same kind that it did not learn from; by default those it was tested on.
        shadow_models: how many classifiers to train, as the run was but on random halves of members and non-
            members, and to forget. They take as long as so many runs on half as many images.
        device: as for `dpvision.train`.
        progress: see `dpvision.runs.Progress`.

    Raises:
        InputError: the run or the images cannot be used, or too few shadow models were asked for.
    """
    check_shadow_models(shadow_models)
    model = load_classifier(run).to(resolve_device(device))
    learned_from = _images(run, members, "data", "members", model)
    others = _images(run, non_members, "test", "non_members", model)
    if (learned_from.units is None) != (others.units is None):
        raise InputError(
            "members and non-members must both have units, or neither: a unit is not attacked as an image is"
        )
    refuse_units_of_both(learned_from, others)
    both = Joined([learned_from, others])
    assert both.labels is not None
    unit = np.arange(len(both)) if both.units is None else both.units.of_image.numpy()
    own = confidences(model, both)
    by_class = centred_by_class(own, both.labels.numpy())
    scores = {
        "confidence": mean_of_groups(own, unit),
        "confidence by class": mean_of_groups(by_class, unit),
    }
    if shadow_models:
        inside = _halves(shadow_models, both.num_protected)[:, unit]
        shadow = _shadow_confidences(Path(run), both, inside, device, progress)
        ratios = lira_scores(own, shadow, inside)
        # The logarithms of likelihood ratios, which add up.
        scores[f"online LiRA, {shadow_models} shadow models"] = np.bincount(unit, ratios).astype(np.float64)
    card = read_json(find_release(run) / "card.json")
    blind = blind_attack(learned_from, others)
    warning = blind.warning("members and non-members") if blind else None
    if warning:
        logger.warning(warning)
    return Membership(
        notice=NOTICE,
        epsilon=card["epsilon"],
        delta=card["delta"],
        members=learned_from.num_protected,
        non_members=others.num_protected,
        shadow_models=shadow_models,
        attacks=attacks(
            scores,
            np.arange(both.num_protected) < learned_from.num_protected,
            card["epsilon"],
            card["delta"],
        ),
        blind=blind,
        warning=warning,
    )


def _images(
    run: str | os.PathLike[str], given: Source | None, recorded: str, option: str, model: Classifier
) -> ImageSet:
    """Return the images given, or those that the run recorded, their classes in the order of the model's."""
    if isinstance(given, ImageSet):
        images = given
    elif given is not None:
        # Of data with splits, what a run learns from is "train".
        split = "train" if option == "members" and "train" in available_splits(given) else None
        choices = replace(choices_of(run, {}), **_whose(run))
        images = fitting_reading(given, split, model.image_shape, choices).open()
    else:
        reading = _recorded(run).config[recorded]
        if reading is None or reading["spec"] is None:
            raise InputError(f"{run} does not say where such images are; name the {option}")
        images = Reading.from_json(reading).open()
        if recorded == "data":
            check_unchanged(_recorded(run), images)
    return images.with_classes(model.class_names)


def _whose(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the choices by which the run found out whose images are whose; of a release alone, none."""
    names, known = ("unit", "unit_column"), (Path(run) / "private").is_dir()
    recorded = (_recorded(run).config["data"] if known else None) or {}
    return {name: recorded.get(name) for name in names}


def _recorded(run: str | os.PathLike[str]) -> RunDirectory:
    """Return the run's directory. InputError for a release alone, which does not say what it was made of."""
    if not (Path(run) / "private").is_dir():
        raise InputError(f"{run} does not say what it learned from; name the members and the non_members")
    return RunDirectory.open(run)


def _halves(models: int, count: int) -> NDArray[np.bool_]:
    """Choose the images, or units, that each shadow model learns from, ``[S, N]``: each by half of them, at
    random.
    """
    places = np.random.default_rng().random((models, count)).argsort(axis=0).argsort(axis=0)
    return np.asarray(places < models // 2)


def _shadow_confidences(
    run: Path,
    images: ImageSet,
    inside: NDArray[np.bool_],
    device: str | None,
    progress: Progress | None,
) -> NDArray[np.float64]:
    """Return the confidences ``[S, N]`` of classifiers trained on subsets, otherwise, noise too, as the run
    was.
    """
    fields = _recorded(run).config
    if device is not None:
        fields = {**fields, "device": device}
    config = RunConfig.from_json({**fields, "data": asdict(Reading()), "test": None})
    pool = config.opened(images, None, Overlaps(config.allow_overlap)).pool
    found = []
    for number, chosen in enumerate(inside):
        if progress:
            progress("training shadow models", number, len(inside))
        model = _shadow_classifier(config, images.subset(chosen.nonzero()[0]), pool)
        found.append(confidences(model, images))
    return np.stack(found)


def _shadow_classifier(config: RunConfig, images: ImageSet, pool: Pool | None) -> Classifier:
    """Train as the run was, with its noise, on these images and an account that nothing keeps."""
    budget, calibrated = config.spending
    settings = _scaled(config.settings, images.num_protected / config.facts.num_examples)
    facts = replace(config.facts, num_examples=images.num_protected)
    stages = at_noise(calibrated.noise_multiplier, partial(config.method.stages, settings, facts), budget)
    shadow = replace(config, settings=settings, facts=facts, stages=stages)

    def open_account() -> Account:
        account = Account(replace(budget, epsilon=stages.epsilon), None, "shadow", stages.events)
        account.open()
        return account

    session = shadow.session(Sources(images, pool=pool), open_account, SecureRandom())
    model = shadow.finish(shadow.learn(session)).model
    assert isinstance(model, Classifier)
    return model


def _scaled(config: Any, share: float) -> Any:
    """Return the settings for a share of the images: batches are drawn at the same rate."""
    batch = getattr(config, "expected_batch_size", None)
    return config if batch is None else replace(config, expected_batch_size=max(1, int(share * batch)))
