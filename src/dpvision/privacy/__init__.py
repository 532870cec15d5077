"""Everything the privacy guarantee rests on: budget, accounting, sampling, noise, mechanisms, ledger.

This package imports nothing of the rest of dpvision and is meant to be read in an afternoon, in this order:
budget, events (event, gaussian, poisson_gaussian), sampled_gaussian, accounting, gaussian, by_example, noise,
sampling, mechanisms, plan, ledger, account, canaries, audit.
"""

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
    "RandomSource",
    "Sampler",
    "SecureRandom",
    "SeededRandom",
    "calibrate_noise_multiplier",
    "calibrate_steps",
    "default_delta",
    "default_ledger_path",
    "epsilon",
    "gaussian_event",
    "merge_events",
    "random_source",
]
