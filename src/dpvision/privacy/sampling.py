"""Sample the examples of a batch. The object that draws the batch also says how the draw is accounted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, Self

import torch

from dpvision.privacy.by_example import KeySource
from dpvision.privacy.errors import InputError
from dpvision.privacy.events import GaussianSumEvent, gaussian_event

_EVERYTHING = "none: every {unit} enters every release"


class Sampler(Protocol):
    """Draws batches of examples and states the event that a Gaussian sum over one of them amounts to.

    ``in_words`` says for a release card who enters a batch; ``{unit}`` in it stands for what is protected.
    """

    @property
    def in_words(self) -> str: ...

    @property
    def num_examples(self) -> int: ...

    @property
    def num_present(self) -> int: ...

    @property
    def expected_batch_size(self) -> float: ...

    @property
    def sample_rate(self) -> float: ...

    def over(self, present: int) -> Sampler: ...

    def event(
        self, noise_multiplier: float, count: int = 1, replace_one_ratio: float = 2.0
    ) -> GaussianSumEvent: ...

    def sample(self, random: KeySource, ids: torch.Tensor | None = None) -> torch.Tensor: ...


@dataclass(frozen=True)
class _OverExamples:
    """The base of all samplers.

    Attributes:
        num_examples: N, declared public.
        present: the number of examples there are to draw from, where that is not N: maybe none, such as for
            one of several processes. It is private: nothing that a sampler says of itself depends on it, only
            which examples it draws.

    Raises:
        InputError: N is below 1, or there are fewer than none.
    """

    num_examples: int
    present: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise InputError(f"the number of examples must be at least 1, not {self.num_examples}.")
        if self.num_present < 0:
            raise InputError(f"the number of examples there are must be at least 0, not {self.num_present}.")

    @property
    def num_present(self) -> int:
        """The number of examples there are to draw from."""
        return self.num_examples if self.present is None else self.present

    def over(self, present: int) -> Self:
        """Return this sampler for a data set of so many examples, whatever N was declared to be."""
        return replace(self, present=present)

    def _present_ids(self, ids: torch.Tensor | None) -> torch.Tensor:
        """Return ids of the examples there are; by default 0, 1, …. InputError: they are not as many."""
        if ids is None:
            return torch.arange(self.num_present)
        if len(ids) != self.num_present:
            raise InputError(f"there are {self.num_present} examples to draw from, but {len(ids)} ids.")
        return ids


@dataclass(frozen=True)
class PoissonSampler(_OverExamples):
    """Every example enters every batch independently with probability ``sample_rate``.

    The batch size is thus itself random (binomial), and a batch may be empty; the public constant to divide a
    noisy sum by is `expected_batch_size`, never the actual size.

    >>> from dpvision.privacy import SeededRandom
    >>> sampler = PoissonSampler(num_examples=1000, sample_rate=0.01)
    >>> sampler.expected_batch_size
    10.0
    >>> [len(sampler.sample(SeededRandom(0).at("batch", step))) for step in range(4)]
    [11, 9, 3, 13]

    Guarantee: `event` is what a Gaussian sum over a batch of `sample` costs, with fresh randomness for each.
    ``tests/privacy/test_sampling.py::test_poisson_sampler_is_poisson`` counts who is drawn.

    Attributes:
        sample_rate: q in (0, 1].

    Raises:
        InputError: a value is out of range.
    """

    sample_rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sample_rate <= 1:
            raise InputError(
                f"the sample rate must lie in (0, 1], not {self.sample_rate}; "
                f"the expected batch size must not exceed the {self.num_examples} examples."
            )

    @property
    def in_words(self) -> str:
        """As for :class:`Sampler`."""
        if self.sample_rate == 1:
            return _EVERYTHING
        return "Poisson: every {unit} enters every batch independently, at the mechanism's sample rate"

    @property
    def expected_batch_size(self) -> float:
        """The expected batch size q·N, exactly (not rounded)."""
        return self.sample_rate * self.num_examples

    def event(
        self, noise_multiplier: float, count: int = 1, replace_one_ratio: float = 2.0
    ) -> GaussianSumEvent:
        """Return the event of ``count`` Gaussian sums, each over a fresh batch of this sampler."""
        return gaussian_event(noise_multiplier, self.sample_rate, count, replace_one_ratio)

    def sample(self, random: KeySource, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Draw a batch: int64 indices [B] in increasing order, B random and possibly 0.

        Each example is in it by a number of its own, drawn for its id: who else there is, and in which order,
        changes nothing for it.

        Args:
            random: gives a key for this batch.
            ids: the ids of the examples, int64 [N] and distinct; by default 0, 1, ….

        Raises:
            InputError: there are not as many ids as examples.
        """
        draws = random.by_example().of(self._present_ids(ids))
        return draws.bernoulli(self.sample_rate).nonzero().squeeze(1)


@dataclass(frozen=True)
class FullBatch(_OverExamples):
    """Every example, every time: no amplification by sampling.

    Guarantee: `event` is what a Gaussian sum over all examples costs, and claims nothing for a sample.
    ``tests/privacy/test_sampling.py::test_samplers_describe_themselves_exactly`` shows it.
    """

    in_words: ClassVar[str] = _EVERYTHING

    @property
    def sample_rate(self) -> float:
        """The probability with which an example is in a batch, 1."""
        return 1.0

    @property
    def expected_batch_size(self) -> float:
        """The batch size, N."""
        return float(self.num_examples)

    def event(
        self, noise_multiplier: float, count: int = 1, replace_one_ratio: float = 2.0
    ) -> GaussianSumEvent:
        """Return the event of ``count`` Gaussian sums over all examples."""
        return gaussian_event(noise_multiplier, 1.0, count, replace_one_ratio)

    def sample(self, random: KeySource, ids: torch.Tensor | None = None) -> torch.Tensor:
        """Return all indices, int64 [N], whatever their ids are. InputError: there are not as many ids."""
        return torch.arange(len(self._present_ids(ids)))
