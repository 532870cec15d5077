"""A mechanism that dpvision lacks, whose noise is correlated over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import dp_accounting
import numpy as np
import torch
from torch import Tensor

from dpvision.privacy import Budget, Event, FullBatch, GaussianEvent, InputError, RandomSource
from dpvision.privacy.events import register
from dpvision.privacy.mechanisms import Recorder
from dpvision.privacy.sampling import Sampler

N, C, SIGMA, DECAY, STEPS = 12, 0.7, 4.0, 0.6, 6
BUDGET = Budget(50.0, 1e-5)
OF_ALL = FullBatch(N)


def distance(releases: int, decay: float) -> float:
    """‖C·1‖₂, where Cᵢⱼ = decay^(i−j) for i ≥ j: the k-th row's sum is 1 + decay + … + decay^(k−1)."""
    rows = np.cumsum(decay ** np.arange(releases))
    return float(np.linalg.norm(rows))


@dataclass(frozen=True)
class CorrelatedEvent(Event):
    """``count`` steps whose noise is Z(t) − decay·Z(t−1), over all examples each.

    Guarantee: with the matrix C of `distance`, the sums G and their noise are C⁻¹·(C·G + Z), so that all
    steps together are made of one Gaussian release of C·G (Denisov et al., arXiv 2202.08312, Theorem 2.1:
    also if each step depends on those before). An example adds rows of norm at most 1 to G, hence at most
    ‖C·1‖₂ to C·G. That is the count's square root for decay 0. Later rows are longer, so a + b steps cost
    more than a steps and b others: like events may be counted together.
    """

    kind: ClassVar[str] = "correlated_gaussian"
    noise: ClassVar[str] = "correlated Gaussian noise"

    noise_multiplier: float
    decay: float

    @property
    def _at_once(self) -> GaussianEvent:
        return GaussianEvent(self.noise_multiplier / distance(self.count, self.decay))

    def scaled(self, scale: float) -> Self:
        return replace(self, noise_multiplier=scale * self.noise_multiplier)

    def to_dp_event(self, neighboring_relation: str) -> dp_accounting.DpEvent:
        return self._at_once.to_dp_event(neighboring_relation)

    def renyi_divergences(self, orders: Sequence[float], neighboring_relation: str) -> np.ndarray:
        return self._at_once.renyi_divergences(orders, neighboring_relation)

    @property
    def roundings(self) -> int:
        return 1

    @property
    def largest_loss(self) -> float:
        return self._at_once.largest_loss


register("correlated_gaussian", CorrelatedEvent)


class CorrelatedNoise:
    """Takes back some of the last step's noise in each, and records each step's share."""

    replace_one_ratio = 2.0

    def __init__(self, decay: float = DECAY, sampler: Sampler = OF_ALL, sigma: float = SIGMA) -> None:
        self.sensitivity, self.sampler, self.sigma = C, sampler, sigma
        self.decay = decay
        self._last: dict[str, Tensor] = {}

    def over(self, present: int) -> CorrelatedNoise:
        return CorrelatedNoise(self.decay, self.sampler.over(present), self.sigma)

    def cost(self, releases: int) -> CorrelatedEvent:
        return CorrelatedEvent(self.sigma, self.decay, count=releases)

    def release(
        self, sums: Mapping[str, Tensor], account: Recorder, random: RandomSource
    ) -> dict[str, Tensor]:
        account.record(self.cost(1))
        released = {}
        for name, total in sums.items():
            shifted = total.detach().double() - self.decay * self._last.get(name, torch.zeros(()))
            released[name] = random.add_normal(shifted, self.sigma * C)
            self._last[name] = released[name].double() - shifted
        return released

    def state(self) -> Mapping[str, Tensor]:
        return {name: noise.clone() for name, noise in self._last.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            raise InputError("there is no noise of a last step")
        self._last = {name: noise.clone() for name, noise in state.items()}
