"""Refine what a method has released: the same sums are released a second time, and the two, weighed by their
noise, are one release with less; a network is trained on from its weights. The private images pay for both.

Guarantee:
    What is refined was paid for when it was released, so that to go on from it is adaptive composition. What
    both runs cost is composed in one account (:func:`dpvision.api.cost_of_both.cost_of_both`).
    ``tests/api/test_refining.py`` and ``test_refining_generators.py`` compare it with the ledger of both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from dpvision.methods.continued import FROM_DIGEST, REFINE, Continued, parts_of, with_released
from dpvision.methods.method import GUARANTEE, Learned, Method
from dpvision.methods.registry import REFINED
from dpvision.methods.releases import Reusable, open_release
from dpvision.methods.session import Session
from dpvision.networks.weights import safetensors_bytes
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts


class Refined(Continued):
    """Another method, in a run that refines the release of an earlier one on the same images.

    Args:
        method: the method.
    """

    method: Reusable

    def __init__(self, method: Method) -> None:
        if not isinstance(method, Reusable):
            raise InputError(
                f"what {method.name} releases cannot be refined; that of a method for images can"
            )
        super().__init__(method, REFINED, REFINE)

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> Any:
        """Keep the settings of the earlier release, and choose the others as the method does. InputError
        where one of the former is given, or the images cannot be those of the earlier run.
        """
        run, given = self.split(overrides)
        _, earlier = open_release(run)
        settings = with_released(given, self.method.settings_of_release(earlier), run)
        _check_same(facts, earlier, run)
        config = self.method.default_config(facts, budget, device, settings)
        return self.config_class(**asdict(config), **{REFINE: run, FROM_DIGEST: _digest(earlier)})

    def learn(self, config: Any, session: Session) -> Learned:
        """Do what takes private images in the second run. What is learned is of both, and has the guarantee
        of the earlier release.
        """
        earlier = self.opened(config)
        learned = self.method.learn_again(config, earlier, session)
        return replace(learned, facts={**learned.facts, GUARANTEE: earlier.facts[GUARANTEE]})

    def runs_before(self, config: Any) -> int:
        """Return how many runs the earlier release is made of; see :class:`Continued`."""
        return len(parts_of(self.opened(config).facts[GUARANTEE]))

    def opened(self, config: Any) -> Learned:
        """Open the earlier release. InputError where it is not the one that the run began with."""
        _, earlier = open_release(getattr(config, REFINE))
        self.check_same(config, _digest(earlier))
        return earlier


def _digest(earlier: Learned) -> str:
    """Return a SHA-256 of what was released and of all that is stated of it."""
    return hashlib.sha256(safetensors_bytes(earlier.tensors, earlier.facts)).hexdigest()


def _check_same(facts: PublicFacts, earlier: Learned, run: str) -> None:
    """Raise InputError where the images cannot be those of an earlier run, by what is public of both."""
    labelled = bool(earlier.facts["class_names"])
    ours = {
        "images of": list(facts.image_shape),
        "the classes": list(facts.class_names) if labelled else [],
        "N": facts.num_examples,
    }
    theirs = {
        "images of": list(earlier.facts["image_shape"]),
        "the classes": list(earlier.facts["class_names"]),
        "N": earlier.facts["num_examples"],
    }
    for what, here in ours.items():
        if here != theirs[what]:
            raise InputError(
                f"{run} was made with {what} {theirs[what]}, not {here}; give the same images, read likewise"
            )
