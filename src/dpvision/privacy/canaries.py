"""Canaries in what is released: worst-case examples whose presence the noise must hide.

A canary is an example whose clipped gradient (or whatever is summed) is as long as is allowed and lies in one
coordinate of the release. Each is in the data by a fair coin of its own, enters batches by the sampler's own
draw, as any example does, and is looked for in what comes out (the white-box setting of Steinke, Nasr and
Jagielski, arXiv 2305.08846, section 6). Under ``replace_one`` it is one of two opposite vectors by the coin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dpvision.privacy.budget import NeighboringRelation
from dpvision.privacy.errors import InputError
from dpvision.privacy.mechanisms import GaussianSumMechanism, Mechanism, Recorder
from dpvision.privacy.noise import RandomSource


class Canaries:
    """The canaries of one run and what its releases say of each.

    Args:
        count: m.
        neighboring_relation: what the coin decides: presence, or which of two vectors.
        random: the random source of the coins, the draws and the places.

    Attributes:
        included: bool ``[m]``, the coins.
        scores: float64 ``[m]``, the log-likelihood ratio of all releases so far, in against out, as it would
            be with the noise that is claimed and no canary in another's place.
        releases: how many.
    """

    def __init__(self, count: int, neighboring_relation: NeighboringRelation, random: RandomSource) -> None:
        self._relation, self._random = neighboring_relation, random
        self.included = random.at("coins", 0).uniform((count,)) < 0.5
        self.scores = torch.zeros(count, dtype=torch.float64)
        self.releases = 0

    def lengths(self, mechanism: GaussianSumMechanism) -> tuple[float, float]:
        """Return what a canary adds along its direction, if it is in and if out, over the sensitivity."""
        if self._relation == "add_or_remove_one":
            return 1.0, 0.0
        half = mechanism.replace_one_ratio / 2
        return half, -half

    def draw(self, mechanism: GaussianSumMechanism) -> Tensor:
        """Draw which canaries are in the next batch, bool ``[m]``."""
        count = len(self.included)
        sampler = mechanism.sampler.over(count)  # the mechanism's own, for canaries in place of examples
        drawn = sampler.sample(self._random.at("draws", self.releases))
        return torch.zeros(count, dtype=torch.bool).index_fill(0, drawn, True)

    def places(self, size: int) -> tuple[Tensor, Tensor]:
        """Return a coordinate below ``size``, int64 ``[m]``, and a sign, float64 ``[m]``, for each in the
        next release.

        Different coordinates, as far as there are enough.
        """
        random, count = self._random.at("places", self.releases), len(self.included)
        different = random.uniform((size,)).topk(min(count, size)).indices  # in random order
        coordinates = different.repeat(math.ceil(count / size))[:count]
        return coordinates, 1 - 2 * (random.uniform((count,)) < 0.5).double()

    def observe(self, observed: Tensor, mechanism: GaussianSumMechanism) -> None:
        """Take in what a release has along each canary's direction, over the sensitivity, ``[m]``."""
        length_in, length_out = self.lengths(mechanism)
        q, sigma = mechanism.event.sample_rate, mechanism.noise_multiplier

        def log_likelihood(length: float) -> Tensor:
            drawn = math.log(q) + (length * observed - length**2 / 2) / sigma**2
            not_drawn = math.log1p(-q) if q < 1 else -math.inf
            return torch.logaddexp(drawn, torch.full_like(drawn, not_drawn))

        self.scores += log_likelihood(length_in) - log_likelihood(length_out)
        self.releases += 1


@dataclass(frozen=True, kw_only=True)
class AuditedMechanism(GaussianSumMechanism):
    """A mechanism in whose releases canaries are planted and looked for.

    Guarantee: the images are covered as without canaries, to which these are examples like any other: what is
    planted depends on no image, and is part of the sums before noise.
    ``tests/privacy/test_canaries.py::test_an_audited_mechanism_claims_what_the_mechanism_does`` compares what
    is claimed.

    Attributes:
        mechanism: what records, draws noise and adds it.
        canaries: the canaries of the run.
    """

    mechanism: GaussianSumMechanism
    canaries: Canaries

    @classmethod
    def of(cls, mechanism: Mechanism, canaries: Canaries) -> AuditedMechanism:
        """Return the same mechanism, audited. InputError where its releases are no Gaussian sums."""
        if not isinstance(mechanism, GaussianSumMechanism):
            raise InputError(
                f"canaries are planted in Gaussian sums, not in what {type(mechanism).__name__} releases; "
                "audit with mislabelled canaries"
            )
        same = {field.name: getattr(mechanism, field.name) for field in fields(GaussianSumMechanism)}
        return cls(**same, mechanism=mechanism, canaries=canaries)

    def release(
        self, sums: Mapping[str, Tensor], account: Recorder, random: RandomSource
    ) -> dict[str, Tensor]:
        """Release the sums with the canaries in them; see `GaussianSumMechanism.release`."""
        canaries = self.canaries
        coordinates, signs = canaries.places(sum(total.numel() for total in sums.values()))
        length_in, length_out = canaries.lengths(self)
        lengths = torch.where(canaries.included, length_in, length_out).double() * canaries.draw(self)
        planted = {
            name: total.detach().to(
                torch.promote_types(total.dtype, torch.float32),
                copy=True,
                memory_format=torch.contiguous_format,
            )
            for name, total in sums.items()
        }
        for name, inside, places in _located(sums, coordinates):
            values = (self.sensitivity * signs * lengths)[inside]
            planted[name].view(-1).index_add_(0, places, values.to(planted[name]))
        released = self.mechanism.release(planted, account, random)
        # Whoever attacks may know all other examples, and which of them were drawn: that cannot help against
        # a guarantee that holds for every data set.
        observed = torch.empty_like(signs)
        for name, inside, places in _located(sums, coordinates):
            noisy, exact = released[name].view(-1)[places], sums[name].detach().reshape(-1)[places]
            observed[inside] = noisy.cpu().double() - exact.cpu().double()
        canaries.observe(signs * observed / self.sensitivity, self)
        return released


def _located(sums: Mapping[str, Tensor], coordinates: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Locate coordinates of all sums in a row: by sum, which lie in it, and where in it (on its device)."""
    found, start = [], 0
    for name, total in sums.items():
        inside = ((coordinates >= start) & (coordinates < start + total.numel())).nonzero().squeeze(1)
        found.append((name, inside, (coordinates[inside] - start).to(total.device)))
        start += total.numel()
    return found
