"""A fit ends where the truth itself would be as far from what was released."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpvision.methods.discrepancy import AVERAGED, LOOK_EVERY, Discrepancy

CLASSES, FEATURES, STEPS = 3, 2000, 4 * AVERAGED
NOISE = torch.tensor([0.5, 0.1, 0.2])
WEIGHTS = torch.tensor([0.2, 2.0, 0.8])


def after_fit(bias: float, spread: float, seed: int, known: Tensor | None = None) -> bool:
    """Whether a fit is at the noise whose generator is off by bias, in standard deviations of the noise, and
    whose batches' means have this spread around it.
    """
    random = torch.Generator().manual_seed(seed)
    truth = torch.randn(CLASSES, FEATURES, generator=random)
    released = truth + NOISE[:, None] * torch.randn(CLASSES, FEATURES, generator=random)
    target = released if known is None else released * known
    of_generator = truth + bias * NOISE[:, None] * torch.randn(CLASSES, FEATURES, generator=random)
    discrepancy = Discrepancy(released - target, NOISE, WEIGHTS)
    for step in range(STEPS):
        batch = of_generator + spread * torch.randn(CLASSES, FEATURES, generator=random)
        discrepancy.update(step, target - batch)
    return discrepancy.is_noise(STEPS)


@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0])
def test_the_truth_is_near_enough_however_much_batches_vary(spread: float) -> None:
    assert sum(after_fit(0, spread, seed) for seed in range(20)) >= 19


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_half_a_standard_deviation_beside_the_truth_is_too_far(spread: float) -> None:
    assert not any(after_fit(0.5, spread, seed) for seed in range(20))


def test_what_targets_leave_out_of_the_release_counts() -> None:
    """A generator that is fitted to part of what was released is compared with all of it."""
    half = (torch.arange(FEATURES) % 2).float()
    assert after_fit(0, 0.1, 0, known=half)
    assert not after_fit(0.5, 0.1, 0, known=half)


def test_it_looks_only_when_averages_are_full_and_not_at_each_step() -> None:
    discrepancy = Discrepancy(torch.zeros(1, 10), torch.ones(1), torch.ones(1))
    found = [steps for steps in range(60) if discrepancy.is_noise(steps)]
    assert found == [*range(2 * AVERAGED, 60, LOOK_EVERY)]
