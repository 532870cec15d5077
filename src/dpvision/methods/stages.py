"""Plan what a run will release, stage by stage: known before any private image is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dpvision.privacy.accounting import calibrate_noise_multiplier, epsilon
from dpvision.privacy.budget import Budget
from dpvision.privacy.events import Event
from dpvision.privacy.mechanisms import GaussianSumMechanism, Mechanism


@dataclass(frozen=True)
class Stage:
    """A stage: ``count`` releases of one mechanism; ``releases`` says of what, for the release card."""

    releases: str
    mechanism: Mechanism
    count: int

    @property
    def event(self) -> Event:
        """The event of the whole stage: what it costs."""
        return self.mechanism.cost(self.count)

    @property
    def deviation(self) -> float:
        """The standard deviation of the noise on every number of its Gaussian sums."""
        assert isinstance(self.mechanism, GaussianSumMechanism)
        return self.mechanism.standard_deviation


def precision(stages: Iterable[Stage]) -> float:
    """Return what stages of Gaussian sums come to in terms of 1/σ² of a single release: T releases with
    sample rate q and noise σ count as T·q²/σ². That is exact for q = 1; with q below 1 they cost more if σ is
    below 1.
    """
    total = 0.0
    for stage in stages:
        assert isinstance(stage.mechanism, GaussianSumMechanism)
        rate = stage.mechanism.sampler.sample_rate
        total += stage.count * (rate / stage.mechanism.noise_multiplier) ** 2
    return total


@dataclass(frozen=True)
class Calibrated:
    """All stages of a run, at the noise that its budget needs, and the ε of their composition."""

    noise_multiplier: float
    stages: tuple[Stage, ...]
    epsilon: float

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of the run, one for each stage."""
        return tuple(stage.event for stage in self.stages)

    @property
    def num_releases(self) -> int:
        """The number of releases of all stages together."""
        return sum(stage.count for stage in self.stages)

    @property
    def num_examples(self) -> int:
        """The number of examples N, as it was declared."""
        return self.stages[0].mechanism.sampler.num_examples


def calibrate(stages: Callable[[float], Sequence[Stage]], num_examples: int, budget: Budget) -> Calibrated:
    """Find the least noise at which all stages together stay within the budget (by PLD).

    >>> from dpvision.privacy import FullBatch, GaussianSumMechanism
    >>> def stages(noise_multiplier):
    ...     return [Stage("a sum", GaussianSumMechanism(noise_multiplier, 1.0, FullBatch(1000)), count=1)]
    >>> found = calibrate(stages, num_examples=1000, budget=Budget(1.0, 1e-5))
    >>> round(found.noise_multiplier, 2), found.epsilon <= 1.0
    (3.74, True)

    Args:
        stages: from a noise multiplier to everything that will be released with it.
        num_examples: N, declared public.

    Raises:
        InputError: the budget is out of range for N, or no noise meets it.
    """
    budget.check_against(num_examples)
    noise_multiplier = calibrate_noise_multiplier(
        lambda sigma: [stage.event for stage in stages(sigma)], budget
    )
    return at_noise(noise_multiplier, stages, budget)


def at_noise(
    noise_multiplier: float, stages: Callable[[float], Sequence[Stage]], budget: Budget
) -> Calibrated:
    """Take the stages at a given noise."""
    taken = tuple(stages(noise_multiplier))
    events = [stage.event for stage in taken]
    return Calibrated(noise_multiplier, taken, epsilon(events, budget.delta, budget.neighboring_relation))
