"""Define a mechanism, and the Gaussian one for sums: the only place in dpvision that adds noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch

from dpvision.privacy.errors import InputError
from dpvision.privacy.events import Event, GaussianSumEvent
from dpvision.privacy.noise import RandomSource
from dpvision.privacy.sampling import Sampler

# What is released is float32, which holds numbers of this size with room on both sides.
_STANDARD_DEVIATIONS = (1e-30, 1e30)


class Recorder(Protocol):
    """The keeper of the account. ``record`` returns once the event is durable, and raises to refuse it."""

    def record(self, event: Event) -> None: ...


class Mechanism(Protocol):
    """Releases sums over batches with noise, one after another.

    Guarantee: what it releases is as private as the events that it records, if every batch was drawn by
    ``sampler`` with fresh randomness and sums of neighbours, with the same draw of all others, are at most
    ``sensitivity`` apart. It records before it draws, and records all that a release costs: `cost` is what
    runs plan, and the account refuses what was not planned. That training takes any such mechanism as it is
    shows ``tests/training/test_stateful_mechanism.py``.

    Attributes:
        sensitivity: how far apart the sums of neighbours may be, in L2 norm over all tensors, where one
            example is more or less.
        replace_one_ratio: how many times as far apart they may be where one example is replaced.
        sampler: draws the batches.
    """

    @property
    def sensitivity(self) -> float: ...

    @property
    def replace_one_ratio(self) -> float: ...

    @property
    def sampler(self) -> Sampler: ...

    def over(self, present: int) -> Mechanism:
        """Return this mechanism at its beginning, to draw from so many examples; see `Sampler.over`."""

    def cost(self, releases: int) -> Event:
        """Return what so many releases cost together."""

    def release(
        self, sums: Mapping[str, torch.Tensor], account: Recorder, random: RandomSource
    ) -> dict[str, torch.Tensor]:
        """Record what the next release costs, then add noise; see `GaussianSumMechanism.release`."""


@runtime_checkable
class Stateful(Protocol):
    """A mechanism whose next release depends on what it drew before, such as noise that is correlated over
    steps. One without these methods has no state.

    Its state goes into the checkpoint and comes back when a run is taken up again. It may hold noise, which
    no account covers: with it, what was released can be undone. It is for ``private/`` only.

    Guarantee: the mechanism's, if what it has recorded also covers runs that went on from an older state:
    releases after the last checkpoint are lost, and others, with new noise on the same past, take their
    place. So every release records a share; an event that is recorded once for many would let the lost ones
    be made again for free. ``tests/training/test_stateful_mechanism.py`` interrupts such a run.
    """

    def state(self) -> Mapping[str, torch.Tensor]:
        """Return all that the next release depends on but its arguments."""

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from where `state` was taken. InputError where it does not fit; nothing is changed then."""


@dataclass(frozen=True)
class GaussianSumMechanism:
    """Releases a sum over a batch with N(0, (noise_multiplier·sensitivity)²) added to every coordinate.

    What is released is the exact result of that, rounded: see `dpvision.privacy.gaussian`, which says why
    floating-point arithmetic takes nothing from the guarantee.

    >>> from dpvision.privacy import Account, Budget, PoissonSampler, SecureRandom
    >>> mechanism = GaussianSumMechanism(4.0, sensitivity=1.0, sampler=PoissonSampler(1000, 0.1))
    >>> account = Account(Budget(1.0, 1e-5), None, "an example", planned=[mechanism.cost(1)])
    >>> account.open()
    >>> noisy = mechanism.release({"weights": torch.zeros(3)}, account, SecureRandom())
    >>> noisy["weights"].shape, account.left(mechanism.cost(1))
    (torch.Size([3]), 0)

    Guarantee: what `event` states holds if and only if the caller keeps this promise: the batch was drawn
    by ``sampler`` with fresh randomness, and for every pair of data sets D, D′ that differ by one example's
    presence,

        ‖sums(D) − sums(D′)‖₂ ≤ sensitivity,

    the norm being taken jointly over all the tensors of one release, with the same draw of the others.
    Under ``replace_one`` the same norm must be at most replace_one_ratio·sensitivity, which 2 always
    satisfies. ``tests/privacy/test_mechanisms.py`` measures the noise;
    ``tests/testing/test_methods.py`` compares the sums of neighbours, of every method.

    Attributes:
        noise_multiplier: standard deviation of the noise over ``sensitivity``.
        sensitivity: the bound above, for instance the clipping norm C.
        sampler: what drew the batch.
        replace_one_ratio: see `Event`.

    Raises:
        InputError: a value is out of range.
    """

    noise_multiplier: float
    sensitivity: float
    sampler: Sampler
    replace_one_ratio: float = 2.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sensitivity) and self.sensitivity > 0):
            raise InputError(f"the sensitivity must be a positive finite number, not {self.sensitivity}.")
        _ = self.event  # validates the rest
        low, high = _STANDARD_DEVIATIONS
        if not low <= self.standard_deviation <= high:
            raise InputError(
                f"the noise's standard deviation, noise multiplier times sensitivity, must lie in "
                f"[{low:g}, {high:g}], not {self.standard_deviation:g}; scale what is summed."
            )

    @property
    def event(self) -> GaussianSumEvent:
        """The event of one release: what it costs."""
        return self.cost(1)

    def cost(self, releases: int) -> GaussianSumEvent:
        """Return what so many releases cost together, each over a batch of its own."""
        return self.sampler.event(self.noise_multiplier, releases, self.replace_one_ratio)

    def over(self, present: int) -> Self:
        """Return this mechanism for a data set of so many examples, whatever N was declared to be."""
        return replace(self, sampler=self.sampler.over(present))

    @property
    def standard_deviation(self) -> float:
        """The standard deviation of the noise on every coordinate of the sum."""
        return self.noise_multiplier * self.sensitivity

    def release(
        self, sums: Mapping[str, torch.Tensor], account: Recorder, random: RandomSource
    ) -> dict[str, torch.Tensor]:
        """Record the event, then draw the noise and add it.

        Args:
            sums: tensors of any shapes; not changed.
            account: records the event durably first. If it raises, nothing is drawn or released.
            random: the source for this release (already ``at`` its purpose and step).

        Returns:
            float32 tensors of the same names and shapes, on the same devices. The noise is drawn and added on
            the CPU, in float64, whatever the device.

        Raises:
            FloatingPointError: a sum is not finite in float32, so the promise above is broken. Nothing is
                recorded.
        """
        for name, total in sums.items():
            if not torch.isfinite(total.float()).all():
                raise FloatingPointError(f"the sum {name!r} is not finite: its sensitivity is not bounded.")
        account.record(self.event)
        return {
            name: random.add_normal(total.detach().cpu(), self.standard_deviation).to(total.device)
            for name, total in sums.items()
        }
