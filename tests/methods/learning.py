"""What tests of methods do with one, without a run on disk."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from dpvision.images import Images
from dpvision.methods import Calibrated, Learned, Method, Session, at_noise, calibrate
from dpvision.privacy import Account, Budget, Ledger, PublicFacts, RandomSource, SeededRandom

CPU = torch.device("cpu")
NAMES = ("left", "right")


def facts(
    num_examples: int, shape: tuple[int, int, int] = (3, 32, 32), names: tuple[str, ...] = NAMES
) -> PublicFacts:
    return PublicFacts(num_examples, shape, names)


def facts_of(images: Images) -> PublicFacts:
    return PublicFacts(len(images), images.shape, images.class_names)


def calibrated(method: Method, config: Any, of: PublicFacts, budget: Budget) -> Calibrated:
    return calibrate(partial(method.stages, config, of), of.num_examples, budget)


def uncalibrated(method: Method, config: Any, of: PublicFacts, noise_multiplier: float) -> Calibrated:
    return at_noise(noise_multiplier, partial(method.stages, config, of), Budget(1e6, 1e-5))


def session_on(
    images: Images,
    stages: Calibrated,
    budget: Budget,
    *,
    ledger: Ledger | None = None,
    random: RandomSource | None = None,
    **options: Any,
) -> tuple[Session, Account]:
    """A session on images, and its account, which is open."""
    account = Account(budget, ledger, "run", stages.events)
    account.open()
    random = random or SeededRandom(0)
    return Session(images, facts_of(images), stages, lambda: account, random, CPU, **options), account


def learned(method: Method, config: Any, images: Images, budget: Budget, **options: Any) -> Learned:
    stages = calibrated(method, config, facts_of(images), budget)
    return method.learn(config, session_on(images, stages, budget, **options)[0])
