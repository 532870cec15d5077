"""Everything the privacy guarantee rests on: facts, budget, accounting, sampling, noise, mechanisms, ledger.

This package imports nothing of the rest of dpvision and is meant to be read in an afternoon, in this order:
facts, budget, trial_count, events (event, gaussian, poisson_gaussian, selection), sampled_gaussian,
accounting, second_accountant, second_selection, loss_bracket, gaussian, by_example, noise, sampling,
mechanisms, selection, reservation, standing, owner_only, ledger, books, fingerprint, near, image_index,
account, canaries, audit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpvision._lazy import lazy

if TYPE_CHECKING:
    from dpvision.privacy.account import Account
    from dpvision.privacy.accounting import (
        calibrate_noise_multiplier,
        calibrate_steps,
        epsilon,
    )
    from dpvision.privacy.budget import Budget, NeighboringRelation, default_delta
    from dpvision.privacy.by_example import ExampleDraws, ExampleKey
    from dpvision.privacy.errors import BudgetExceeded, InputError
    from dpvision.privacy.events import (
        Event,
        GaussianEvent,
        PoissonGaussianEvent,
        gaussian_event,
        merge_events,
    )
    from dpvision.privacy.facts import PublicFacts, Unit
    from dpvision.privacy.ledger import Ledger, default_ledger_path
    from dpvision.privacy.mechanisms import GaussianSumMechanism, Mechanism
    from dpvision.privacy.noise import RandomSource, SecureRandom, SeededRandom, random_source
    from dpvision.privacy.sampling import FullBatch, PoissonSampler, Sampler

__all__ = [
    "Account",
    "Budget",
    "BudgetExceeded",
    "Event",
    "ExampleDraws",
    "ExampleKey",
    "FullBatch",
    "GaussianEvent",
    "GaussianSumMechanism",
    "InputError",
    "Ledger",
    "Mechanism",
    "NeighboringRelation",
    "PoissonGaussianEvent",
    "PoissonSampler",
    "PublicFacts",
    "RandomSource",
    "Sampler",
    "SecureRandom",
    "SeededRandom",
    "Unit",
    "calibrate_noise_multiplier",
    "calibrate_steps",
    "default_delta",
    "default_ledger_path",
    "epsilon",
    "gaussian_event",
    "merge_events",
    "random_source",
]

_HOMES = {
    "Account": "dpvision.privacy.account",
    "Budget": "dpvision.privacy.budget",
    "BudgetExceeded": "dpvision.privacy.errors",
    "ExampleDraws": "dpvision.privacy.by_example",
    "ExampleKey": "dpvision.privacy.by_example",
    "FullBatch": "dpvision.privacy.sampling",
    "Event": "dpvision.privacy.events",
    "GaussianEvent": "dpvision.privacy.events",
    "GaussianSumMechanism": "dpvision.privacy.mechanisms",
    "InputError": "dpvision.privacy.errors",
    "Ledger": "dpvision.privacy.ledger",
    "Mechanism": "dpvision.privacy.mechanisms",
    "NeighboringRelation": "dpvision.privacy.budget",
    "PoissonGaussianEvent": "dpvision.privacy.events",
    "PoissonSampler": "dpvision.privacy.sampling",
    "PublicFacts": "dpvision.privacy.facts",
    "RandomSource": "dpvision.privacy.noise",
    "Sampler": "dpvision.privacy.sampling",
    "SecureRandom": "dpvision.privacy.noise",
    "SeededRandom": "dpvision.privacy.noise",
    "Unit": "dpvision.privacy.facts",
    "calibrate_noise_multiplier": "dpvision.privacy.accounting",
    "calibrate_steps": "dpvision.privacy.accounting",
    "default_delta": "dpvision.privacy.budget",
    "default_ledger_path": "dpvision.privacy.ledger",
    "epsilon": "dpvision.privacy.accounting",
    "gaussian_event": "dpvision.privacy.events",
    "merge_events": "dpvision.privacy.events",
    "random_source": "dpvision.privacy.noise",
}

if not TYPE_CHECKING:  # which would take any name for one of these
    __getattr__ = lazy(__name__, _HOMES)
