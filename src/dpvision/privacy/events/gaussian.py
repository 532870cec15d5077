"""Gaussian noise on something that every example is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import dp_accounting
import numpy as np

from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.errors import InputError
from dpvision.privacy.events.event import Event
from dpvision.privacy.sampled_gaussian import renyi_bound

NOISE_MULTIPLIERS = (1e-3, 1e9)
"""The range of noise multipliers: outside it the accountants overflow, and no use is known."""


@dataclass(frozen=True)
class GaussianEvent(Event):
    """``count`` releases of a sum over all examples with Gaussian noise.

    Guarantee: the cost is that of N(0, σ²) against N(s, σ²), exactly, where the sums of neighbours are at
    most s·sensitivity apart in L2 norm: s is 1 under ``add_or_remove_one`` and ``replace_one_ratio`` under
    ``replace_one``. ``tests/privacy/test_accounting.py::test_unsampled_gaussian_is_exact`` compares it with a
    formula.

    Attributes:
        noise_multiplier: σ, the noise's standard deviation over the add-or-remove sensitivity of the sum.
        replace_one_ratio: replace-one sensitivity over add-or-remove sensitivity, in (0, 2]. Two is always
            right.
        sample_rate: 1, as every example is in.

    Raises:
        InputError: a value is out of range.
    """

    kind: ClassVar[str] = "gaussian"
    noise: ClassVar[str] = "Gaussian noise"
    sample_rate: ClassVar[float] = 1.0

    noise_multiplier: float
    replace_one_ratio: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise_multiplier, self.replace_one_ratio)

    def scaled(self, scale: float) -> Self:
        """Return the same releases with ``scale`` times the noise."""
        return replace(self, noise_multiplier=scale * self.noise_multiplier)

    def to_dp_event(self, neighboring_relation: NeighboringRelation) -> dp_accounting.DpEvent:
        """Return a Gaussian, composed with itself, with the noise that dp_accounting takes it to have."""
        one = dp_accounting.GaussianDpEvent(self._noise_at_twice(neighboring_relation))
        return dp_accounting.SelfComposedDpEvent(one, self.count)

    def renyi_divergences(
        self, orders: Sequence[float], neighboring_relation: NeighboringRelation
    ) -> np.ndarray:
        """Compute α·s²/(2σ²) for each order."""
        noise_multiplier = self._noise_at_twice(neighboring_relation)
        return self.count * renyi_bound(noise_multiplier, 1.0, tuple(orders), neighboring_relation)

    def _noise_at_twice(self, neighboring_relation: NeighboringRelation) -> float:
        """Return the noise multiplier at which replacing costs as much, if it may change the sum by twice as
        much as adding does, which is what dp_accounting and `renyi_bound` take for granted.
        """
        ratio = self.replace_one_ratio / 2 if neighboring_relation == "replace_one" else 1.0
        return self.noise_multiplier / ratio

    @property
    def roundings(self) -> int:
        """One: dp_accounting composes Gaussians exactly, as one with less noise."""
        return 1

    @property
    def largest_loss(self) -> float:
        """The privacy loss of the composition at ten standard deviations, in nats."""
        return loss_at_ten_deviations(2 * self.count**0.5 / self.noise_multiplier)

    def to_json(self) -> dict[str, Any]:
        """Return the fields, the rate too, and no kind: as `GaussianSumEvent` was always written."""
        return written_fields(self.noise_multiplier, 1.0, self.count, self.replace_one_ratio)

    def facts(self) -> dict[str, Any]:
        """Return noise multiplier, sample rate and count."""
        return {"noise_multiplier": self.noise_multiplier, "sample_rate": 1.0, "count": self.count}


def check_noise(noise_multiplier: float, replace_one_ratio: float) -> None:
    """Raise InputError for noise that cannot be accounted for, or a ratio outside (0, 2]."""
    low, high = NOISE_MULTIPLIERS
    if not low <= noise_multiplier <= high:
        raise InputError(f"noise_multiplier must lie in [{low:g}, {high:g}], not {noise_multiplier}.")
    if not 0 < replace_one_ratio <= 2:
        raise InputError(f"replace_one_ratio must lie in (0, 2], not {replace_one_ratio}.")


def loss_at_ten_deviations(shift: float) -> float:
    """Return the privacy loss of N(shift, 1) against N(0, 1) at ten standard deviations, in nats."""
    return shift**2 / 2 + 10 * shift


def written_fields(
    noise_multiplier: float, sample_rate: float, count: int, replace_one_ratio: float
) -> dict[str, Any]:
    """Return the fields of an event of Gaussian noise, sampled or not, in a ledger's order."""
    return {
        "noise_multiplier": noise_multiplier,
        "sample_rate": sample_rate,
        "count": count,
        "replace_one_ratio": replace_one_ratio,
    }
