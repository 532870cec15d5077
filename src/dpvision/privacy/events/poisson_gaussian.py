"""Gaussian noise on a sum over a Poisson sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import dp_accounting
import numpy as np

from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.errors import InputError
from dpvision.privacy.events.event import Event, register
from dpvision.privacy.events.gaussian import (
    GaussianEvent,
    check_noise,
    loss_at_ten_deviations,
    written_fields,
)
from dpvision.privacy.sampled_gaussian import renyi_bound


@dataclass(frozen=True)
class PoissonGaussianEvent(Event):
    """``count`` releases of a sum over a Poisson-sampled batch, a fresh one each, with Gaussian noise.

    Guarantee: the cost is that of the pairs of distributions that `dpvision.privacy.sampled_gaussian` proves
    to be the worst, exactly but for the grid, if every example enters every batch with this probability,
    independently of the others. ``tests/privacy/test_accounting.py::test_agrees_with_a_direct_computation``
    composes them in another way.

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over the add-or-remove sensitivity of the sum.
        sample_rate: q in (0, 1); at 1 it is a `GaussianEvent`, see `gaussian_event`.
        replace_one_ratio: replace-one sensitivity over add-or-remove sensitivity, in (0, 2]. It is accounted
            for as two in any case.

    Raises:
        InputError: a value is out of range.
    """

    kind: ClassVar[str] = "gaussian"
    noise: ClassVar[str] = "Gaussian noise"

    noise_multiplier: float
    sample_rate: float
    replace_one_ratio: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise_multiplier, self.replace_one_ratio)
        if not 0 < self.sample_rate < 1:
            raise InputError(f"sample_rate of a sample must lie in (0, 1), not {self.sample_rate}.")

    def scaled(self, scale: float) -> Self:
        """Return the same releases with ``scale`` times the noise."""
        return replace(self, noise_multiplier=scale * self.noise_multiplier)

    def unsampled(self) -> GaussianEvent:
        """Return as many sums over all examples."""
        return GaussianEvent(self.noise_multiplier, self.replace_one_ratio, count=self.count)

    def to_dp_event(self, neighboring_relation: NeighboringRelation) -> dp_accounting.DpEvent:
        """Return a Poisson-sampled Gaussian, composed with itself: dp_accounting knows its pairs."""
        gaussian = dp_accounting.GaussianDpEvent(self.noise_multiplier)
        one = dp_accounting.PoissonSampledDpEvent(self.sample_rate, gaussian)
        return dp_accounting.SelfComposedDpEvent(one, self.count)

    def renyi_divergences(
        self, orders: Sequence[float], neighboring_relation: NeighboringRelation
    ) -> np.ndarray:
        """Compute the Rényi divergences of the worst pair, by quadrature, times the count."""
        one = renyi_bound(self.noise_multiplier, self.sample_rate, tuple(orders), neighboring_relation)
        return self.count * one

    @property
    def largest_loss(self) -> float:
        """The privacy loss without sampling, at ten standard deviations."""
        return loss_at_ten_deviations(2 / self.noise_multiplier)

    def to_json(self) -> dict[str, Any]:
        """Return the fields and no kind: as `GaussianSumEvent` was always written."""
        return written_fields(self.noise_multiplier, self.sample_rate, self.count, self.replace_one_ratio)

    def facts(self) -> dict[str, Any]:
        """Return noise multiplier, sample rate and count."""
        return {
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
            "count": self.count,
        }


GaussianSumEvent = GaussianEvent | PoissonGaussianEvent
"""Releases of a sum with Gaussian noise, over a sample or over all. A ledger tells them apart by the rate."""


def gaussian_event(
    noise_multiplier: float, sample_rate: float = 1.0, count: int = 1, replace_one_ratio: float = 2.0
) -> GaussianSumEvent:
    """Return the event of ``count`` sums over samples at this rate, which at rate 1 are of all examples.

    >>> str(gaussian_event(2.0, sample_rate=0.05, count=100))
    'Gaussian noise at noise multiplier 2 and sample rate 0.05'

    Raises:
        InputError: a value is out of range.
    """
    if not 0 < sample_rate <= 1:
        raise InputError(f"sample_rate must lie in (0, 1], not {sample_rate}.")
    if sample_rate == 1:
        return GaussianEvent(noise_multiplier, replace_one_ratio, count=count)
    return PoissonGaussianEvent(noise_multiplier, sample_rate, replace_one_ratio, count=count)


register("gaussian", gaussian_event)
