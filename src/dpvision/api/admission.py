"""Say whether the limits of the images' owners allow a run, and the largest ε with which they would."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dpvision.api.config import RunConfig
from dpvision.api.options import PlanOptions
from dpvision.images import ImageSet
from dpvision.images.indexed import standings
from dpvision.methods import calibrate
from dpvision.methods.continued import TAKES_UP
from dpvision.methods.stages import Stage, at_noise
from dpvision.privacy import Event, InputError, Ledger, default_ledger_path
from dpvision.privacy.books import ledgers_of_all
from dpvision.privacy.facts import Unit
from dpvision.privacy.standing import Standing, least_noise, outcome, round_down, worst

_CANDIDATES = 20
"""How many ε are tried, each at least a hundredth smaller, where settings follow from ε."""


@dataclass(frozen=True)
class Admission:
    """What the owners' limits say of a run: the fields of a `Forecast` that are named so."""

    allowed: bool
    epsilon_after: float
    images_after: int
    after_of: Unit
    epsilon_limit: float | None = None
    epsilon_fits: float | None = None


def admission_of(config: RunConfig, images: ImageSet, given: PlanOptions) -> Admission:
    """Say what the owners' limits would say of a run. Reads the ledgers and the index of images that there
    are, and makes none.

    Args:
        config: the run.
        images: its private images.
        given: the options that it was made of.

    Raises:
        InputError: the ledger is of other images, or damaged, or the index is.
    """
    budget, stages = config.spending
    usual = default_ledger_path(images.digest)
    own = next((Ledger(path) for path in (Path(given.ledger or usual), usual) if os.path.exists(path)), None)
    if own is not None:
        own.check_is_of(images.digest, images.num_protected, images.protects)
    found = standings(ledgers_of_all(own) if own else [], images)
    after = outcome(found, stages.events)
    if after is None:
        epsilon, standing = worst(found, budget, stages.events)
        return Admission(True, epsilon, standing.images, standing.unit)
    overrides = dict(given.config or {})
    if given.network is not None:
        overrides["network"] = config.settings.network  # by its name
    overrides |= {
        name: getattr(config.settings, name) for name in TAKES_UP if getattr(given, name) is not None
    }
    fits = largest_epsilon(config, overrides, found)
    limit = after.limit.budget.epsilon
    return Admission(after.is_allowed, after.epsilon, after.images, after.standing.unit, limit, fits)


def largest_epsilon(config: RunConfig, overrides: Mapping[str, Any], found: Sequence[Standing]) -> float:
    """Find the largest ε, to four digits, with which a run would be allowed; 0 where there is none.

    Settings that were not given may follow from ε, so that a smaller ε can need more noise than was found.
    Therefore each ε is tried as a run of its own would be.
    """
    method, facts, settings = config.method, config.facts, config.settings
    budget, _ = config.spending
    epsilon = math.inf
    for _ in range(_CANDIDATES):
        stages = partial(method.stages, settings, facts)
        noise = least_noise(found, partial(_events, stages))
        if noise == math.inf:
            return 0.0
        epsilon = round_down(min(at_noise(noise, stages, budget).epsilon, 0.99 * epsilon))
        try:
            candidate = replace(budget, epsilon=epsilon)
            settings = method.default_config(facts, candidate, config.device, overrides)
            run = calibrate(partial(method.stages, settings, facts), facts.num_examples, candidate)
        except InputError:  # this method cannot do with so little
            return 0.0
        after = outcome(found, run.events)
        if after is None or after.is_allowed:
            return epsilon
    return 0.0


def _events(stages: Callable[[float], Sequence[Stage]], noise_multiplier: float) -> list[Event]:
    return [stage.event for stage in stages(noise_multiplier)]
