"""Refine what DP-MEPF has released by a second release of the same sums: the two, weighed by their noise, are
one release with less. The private images pay for both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from dpvision.methods.dp_mepf import DPMEPF, DPMEPFConfig, learned_of, opened
from dpvision.methods.embedding import EMBEDDING, Embedding
from dpvision.methods.estimates import Estimate
from dpvision.methods.method import Finished, Learned, Makes, Method, Workplace
from dpvision.methods.registry import REFINED
from dpvision.methods.session import Session
from dpvision.methods.stages import Stage
from dpvision.priors.encoders.released import ENCODER, load_encoder
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts
from dpvision.runs.places import check_embedding, find_release


@dataclass(frozen=True, kw_only=True)
class RefinedConfig(DPMEPFConfig):
    """Everything public about a run that refines an earlier one but the data and the budget.

    Attributes:
        refine: is the directory of the earlier run, or its release directory.

    The others are those of :class:`DPMEPFConfig`.

    Raises:
        InputError: a value is out of range.
    """

    refine: str


class Refined:
    """Another method, DP-MEPF, whose release refines that of an earlier run on the same images.

    Args:
        method: the method.
    """

    makes: Makes = "images"
    needs_labels = False
    config_class: type = RefinedConfig

    def __init__(self, method: Method) -> None:
        if not isinstance(method, DPMEPF):
            raise InputError(f"what {method.name} releases cannot be refined; that of dp-mepf can")
        self.method = method
        self.name = REFINED + method.name

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> RefinedConfig:
        """Keep the settings of the earlier release, and choose those of the fit as DP-MEPF does. InputError
        where one of the former is given, or the images cannot be those of the earlier run.
        """
        given = {name: value for name, value in overrides.items() if name != "refine"}
        earlier = earlier_release(overrides["refine"])
        kept = settings_of_release(earlier)
        check_not_released(given, kept, overrides["refine"])
        _check_same(facts, earlier, overrides["refine"])
        encoder = earlier.facts["encoder"]
        kept["encoder_options"] = {n: v for n, v in encoder.items() if n not in ("name", "image_shape")}
        config = self.method.default_config(facts, budget, device, {**given, **kept})
        values = {one.name: getattr(config, one.name) for one in fields(config)}
        return RefinedConfig(**values, refine=str(overrides["refine"]))

    def stages(self, config: RefinedConfig, facts: PublicFacts, noise_multiplier: float) -> tuple[Stage, ...]:
        """Return the one stage of the second release."""
        return self.method.stages(config, facts, noise_multiplier)

    def estimate(self, config: RefinedConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        return self.method.estimate(config, facts, device)

    def learn(self, config: RefinedConfig, session: Session) -> Learned:
        """Release the sums of the same features once more. What is learned is the mean of both releases, with
        what is known of the earlier one: its guarantee too.
        """
        embedding, encoder = opened(earlier_release(config.refine))
        session.refuse_own(encoder.to(session.device))
        session.agree(encoder)
        sums = self.method.released_sums(config, session, encoder)
        noise = session.stages.noise_multiplier * config.mechanism(1, 1).sensitivity
        second = Embedding(
            {name: total.to("cpu") for name, total in sums.items()}, {**embedding.facts, "noise": noise}
        )
        both = embedding.combined(second)
        return learned_of(both.sums, both.facts, encoder)

    def finish(
        self, config: RefinedConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Fit a generator to the mean of both releases."""
        return self.method.finish(config, learned, facts, workplace)


def open_release(path: Path) -> Learned:
    """Read what a run released of private images, and the encoder stored beside it whose features these are.

    Raises:
        InputError: a file is missing or damaged, or does not fit the other.
    """
    check_embedding(path)
    embedding = Embedding.load(path)
    encoder = load_encoder(
        embedding.facts["encoder"],
        path.with_name(ENCODER),
        embedding.facts["image_shape"],
        embedding.mechanism.num_features,
    )
    return learned_of(embedding.sums, embedding.facts, encoder)


def earlier_release(run: str | os.PathLike[str]) -> Learned:
    """Return what a run has released, see `open_release`."""
    return open_release(find_release(run) / EMBEDDING)


def settings_of_release(learned: Learned) -> dict[str, Any]:
    """Return the settings that are part of what was released."""
    return {
        "encoder": learned.facts["encoder"]["name"],
        "encoder_options": {},
        "labelled": bool(learned.facts["class_names"]),
        "second_moment_weight": learned.facts["second_moment_weight"],
        "count_weight": learned.facts["count_weight"],
    }


def check_not_released(
    given: Mapping[str, Any], of_release: Mapping[str, Any], where: str | os.PathLike[str]
) -> None:
    """Raise InputError for a setting that is part of what was released."""
    for name in given.keys() & of_release.keys():
        raise InputError(f"{name} is part of what was released in {where} and stays as it is; leave it out")


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
