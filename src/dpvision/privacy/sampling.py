"""How examples enter a batch. The object that draws the batch also says how the draw is accounted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from dpvision.privacy.accounting import GaussianEvent
from dpvision.privacy.errors import InputError
from dpvision.privacy.noise import RandomSource


class Sampler(Protocol):
    """Draws batches of examples and states the event that a Gaussian sum over one of them amounts to."""

    @property
    def num_examples(self) -> int: ...

    @property
    def expected_batch_size(self) -> float: ...

    def event(
        self, noise_multiplier: float, count: int = 1, replace_one_ratio: float = 2.0
    ) -> GaussianEvent: ...

    def sample(self, random: RandomSource) -> torch.Tensor: ...


@dataclass(frozen=True)
class PoissonSampler:
    """Every example enters every batch independently with probability ``sample_rate``.

    The batch size is thus itself random (binomial), and a batch may be empty; the public constant to divide a
    noisy sum by is `expected_batch_size`, never the actual size.

    Attributes:
        num_examples: N, declared public.
        sample_rate: q in (0, 1].

    Raises:
        InputError: a value is out of range.
    """

    num_examples: int
    sample_rate: float

    def __post_init__(self) -> None:
        _check_num_examples(self.num_examples)
        if not 0 < self.sample_rate <= 1:
            raise InputError(
                f"the sample rate must lie in (0, 1], not {self.sample_rate}; "
                f"the expected batch size must not exceed the {self.num_examples} examples."
            )

    @property
    def expected_batch_size(self) -> float:
        """q·N, exactly (not rounded)."""
        return self.sample_rate * self.num_examples

    def event(self, noise_multiplier: float, count: int = 1, replace_one_ratio: float = 2.0) -> GaussianEvent:
        """The event of ``count`` Gaussian sums, each over a fresh batch of this sampler."""
        return GaussianEvent(noise_multiplier, self.sample_rate, count, replace_one_ratio)

    def sample(self, random: RandomSource) -> torch.Tensor:
        """Draw a batch: int64 indices [B] in increasing order, B random and possibly 0."""
        return random.bernoulli_indices(self.num_examples, self.sample_rate)


@dataclass(frozen=True)
class FullBatch:
    """Every example, every time: no amplification by sampling.

    Attributes:
        num_examples: N, declared public.

    Raises:
        InputError: ``num_examples`` is below 1.
    """

    num_examples: int

    def __post_init__(self) -> None:
        _check_num_examples(self.num_examples)

    @property
    def expected_batch_size(self) -> float:
        """N."""
        return float(self.num_examples)

    def event(self, noise_multiplier: float, count: int = 1, replace_one_ratio: float = 2.0) -> GaussianEvent:
        """The event of ``count`` Gaussian sums over all examples."""
        return GaussianEvent(noise_multiplier, 1.0, count, replace_one_ratio)

    def sample(self, random: RandomSource) -> torch.Tensor:
        """All indices, int64 [N]."""
        return torch.arange(self.num_examples)


def _check_num_examples(num_examples: int) -> None:
    if num_examples < 1:
        raise InputError(f"the number of examples must be at least 1, not {num_examples}.")
