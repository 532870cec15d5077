"""Open the classifier that an earlier run has released, to go on from it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dpvision.images.files import read_json, read_text_file, reading
from dpvision.images.released import CARD, GUARANTEE
from dpvision.methods.continued import parts_of
from dpvision.methods.gradient_descent import images_over_noise
from dpvision.methods.places import hides_a_place
from dpvision.methods.registry import TUNED, plain_name
from dpvision.networks import Classifier
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.runs import load_release
from dpvision.runs.digests import digests
from dpvision.runs.places import find_release, is_run

OFFSETS = "offsets"
"""What the configuration of a classifier has of the weights of its classes, which are no part of training."""


@dataclass(frozen=True, eq=False)
class Start:
    """A classifier that an earlier run has released.

    Attributes:
        place: where that run is, or its release, for messages.
        method: the method that made it, without what stands before its name.
        settings: that method's, as far as they are known: on a card places are not.
        config: what the classifier is built by, without the weights of its classes.
        weights: its tensors by name, on the CPU.
        card: the card of the release.
        digest: the SHA-256 of the release's guarantee.json, which has those of all its other files.
    """

    place: str
    method: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    card: Mapping[str, Any]
    digest: str

    @property
    def images_over_noise(self) -> float:
        """N/σ of a single release with what the run itself has spent; see
        :func:`dpvision.methods.gradient_descent.images_over_noise`.
        """
        return _images_over_noise(parts_of(self.card)[-1])

    @property
    def all_images_over_noise(self) -> float:
        """The same of all runs that it counts together: the root of the sum of squares."""
        return math.hypot(*map(_images_over_noise, parts_of(self.card)))

    def check_makes(self, model: Classifier) -> None:
        """Raise InputError unless a classifier is built as the released one was."""
        if model.config != self.config:
            raise InputError(
                f"the classifier of {self.place} is built otherwise by now: its encoder, or its network, is "
                "not what it was; restore that"
            )


def _images_over_noise(part: Mapping[str, Any]) -> float:
    budget = Budget(part["epsilon"], part["delta"], part["neighboring_relation"])
    return images_over_noise(part["num_examples"], budget)


def open_start(place: str | os.PathLike[str]) -> Start:
    """Read the release of an earlier run that made a classifier.

    Args:
        place: the run's directory, or its release.

    Raises:
        InputError: there is none, it has no classifier, or a file of it was changed or damaged.
    """
    release = find_release(place)
    digest = _checked_digest(release)
    model = load_release(release)
    if not isinstance(model, Classifier):
        raise InputError(
            f"{place} released images and no classifier; give a run of train or tune (synthesize --refine "
            "goes on from such as this)"
        )
    card = read_json(release / CARD)
    with reading(str(release / CARD)):
        settings = _settings(release, card)
        return Start(
            place=str(place),
            method=plain_name(card["method"]),
            settings={name: value for name, value in settings.items() if not hides_a_place(value)},
            config={name: value for name, value in (model.config or {}).items() if name != OFFSETS},
            weights=model.state_dict(),
            card=card,
            digest=digest,
        )


def _checked_digest(release: Path) -> str:
    """Return the digest of guarantee.json. InputError where a file is not as it says, or it is not there."""
    path = release / GUARANTEE
    if not path.is_file():
        raise InputError(f"{path} is missing; give a release that has all its files")
    content = read_text_file(path)
    stated = read_json(path).get("files")
    found = {name: digest for name, digest in digests(release).items() if name != GUARANTEE}
    if stated != found:
        raise InputError(f"{release} is not as its {GUARANTEE} says, which `dpvision verify` tells more of")
    return hashlib.sha256(content).hexdigest()


def _settings(release: Path, card: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the run that made a release: with places, where its directory is there."""
    if is_run(release.parent) and find_release(release.parent) == release:
        config = read_json(release.parent / "config.json")
        if not str(config["method"]).startswith(TUNED):  # else the card has those that were chosen
            return dict(config["config"])
    return dict(card["config"])
