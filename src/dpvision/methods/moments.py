"""The two steps in which moments of images are released."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.images import ImageSet
from dpvision.methods.class_sizes import class_sizes
from dpvision.networks.by_row import by_row, rows_at_a_time
from dpvision.networks.cosine_basis import CosineBasis
from dpvision.privacy.mean_embedding import MeanEmbedding
from dpvision.privacy.second_moments import SecondMoments

LONGEST = 1.5 / 4
"""The squared weighted length, for each of n numbers, at which an image's is limited in the first step. That
of an image of 0 and 1 alone, about middle grey, is 1/4 without weights.
"""
LEAST_SHARE = 1e-3
"""The least squared bound of the second step, as a share of that: it follows from a noisy number."""
WEIGHT_OF_LENGTH = 0.25
MOST_STRETCH = 2.0
CONSTANT = 0.5
"""The last number of an image's vector in the second step, beside a distance of at most one."""

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Moments:
    """Says what is released of images in two steps, and with which bounds.

    Attributes:
        shape: (C, h, w), to which images are averaged; n = C·h·w.
        num_classes: K, or None without labels.
        emphasis, clip, count_weight: see :class:`~dpvision.methods.dp_moments.DPMomentsConfig`.
    """

    shape: tuple[int, int, int]
    num_classes: int | None
    emphasis: float
    clip: float
    count_weight: float

    @cached_property
    def basis(self) -> CosineBasis:
        return CosineBasis(self.shape)

    @cached_property
    def weights(self) -> Tensor:
        """What each wave is multiplied by, ``[n]``, float64."""
        return (1 + self.basis.frequencies.double()) ** self.emphasis

    @cached_property
    def grey(self) -> Tensor:
        """The waves of an image of middle grey, ``[n]``: those of images are less by these."""
        return self.basis.waves_of(torch.full((1, *self.shape), 0.5))[0]

    @property
    def longest(self) -> float:
        return LONGEST * math.prod(self.shape)

    @property
    def first(self) -> MeanEmbedding:
        """The mechanism of the first step: class-wise sums of waves and of squared weighted lengths, and
        counts.
        """
        return MeanEmbedding(math.prod(self.shape) + 2, self.num_classes, 0.0, self.count_weight)

    @property
    def second(self) -> SecondMoments:
        """The mechanism of the second step: class-wise sums of the second moments of distances and a
        constant.
        """
        return SecondMoments(math.prod(self.shape) + 1, self.num_classes or 1)

    def waves(self, pixels: Tensor) -> Tensor:
        """Return the waves of uint8 images ``[B, C, H, W]``, less those of grey: float32 ``[B, n]``."""
        x = F.adaptive_avg_pool2d(pixels.float() / 255, self.shape[1:])
        return self.basis.waves_of(x) - self.grey.to(x)

    def first_features(self, waves: Tensor) -> Tensor:
        """Return what the first step adds up, up to a factor: ``[B, n + 2]``, all of one norm. The last
        number is what is missing to it, for :class:`MeanEmbedding` would make others longer.
        """
        waves = waves.double()
        place = waves * (2 / math.sqrt(waves.shape[1]))  # no longer than one: pixels are in [0, 1]
        squares = (waves * self.weights.to(waves.device)).square().sum(dim=1, keepdim=True)
        length = WEIGHT_OF_LENGTH * (squares / self.longest).clamp(max=1)
        rest = 1 + WEIGHT_OF_LENGTH**2 - place.square().sum(dim=1, keepdim=True) - length.square()
        return torch.cat([place, length, rest.clamp(min=0).sqrt()], dim=1)

    def centred(
        self, released: Mapping[str, Tensor], noise: float, num_examples: int, least_spread: float = 0.0
    ) -> Centred:
        """Return the second step, about the means that were released in the first.

        Args:
            released: the sums with noise of the first step.
            noise: its standard deviation on every number.
            num_examples: N.
            least_spread: what the mean squared weighted distance from the mean is known to be at least.
        """
        n = math.prod(self.shape)
        norm = math.sqrt(1 + WEIGHT_OF_LENGTH**2)  # that of the features
        sums = released["first"].double() * norm
        to_waves = math.sqrt(n) / 2
        places, lengths = sums[:, :n] * to_waves, sums[:, n] / WEIGHT_OF_LENGTH * self.longest
        counted, variance = self._counted(released, noise, num_examples)
        sizes = class_sizes(counted, variance, num_examples)
        deviation = noise * norm * to_waves
        means, of_noise = self._shrunk(places, sizes, deviation)
        squared = self.weights.square()
        inner = (squared * places * means).sum() - deviation**2 * (squared * of_noise).sum()
        of_means = (sizes[:, None] * squared * means.square()).sum()
        spread = float((lengths.sum() - 2 * inner + of_means) / num_examples)  # sizes may have a larger sum
        spread = max(spread, least_spread, LEAST_SHARE * self.longest)
        return Centred(self, means, spread, counted, variance, num_examples)

    def as_released(
        self,
        released: Mapping[str, Tensor],
        noise: float,
        num_examples: int,
        means: Tensor,
        spread: float,
    ) -> Centred:
        """Return a second step that was made before: about these means, with the bound of this spread; others
        as for `centred`.
        """
        return Centred(
            self, means.double(), spread, *self._counted(released, noise, num_examples), num_examples
        )

    def _counted(
        self, released: Mapping[str, Tensor], noise: float, num_examples: int
    ) -> tuple[Tensor, float]:
        """Return how many images of each class the first step has counted, and the variance of the noise on
        that.
        """
        if self.num_classes is None:
            return torch.tensor([float(num_examples)], dtype=torch.float64), 0.0
        return released["counts"].double() / self.count_weight, (noise / self.count_weight) ** 2

    def _shrunk(self, places: Tensor, sizes: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
        """Return class means ``[K, n]`` of noisy sums: that of all images, and what a class differs by from
        it, each band of waves shortened by the share that noise has in it. And the derivatives of these means
        by the sums: times the noise's variance, they are what noise adds to sums times means on average
        (Stein's lemma).
        """
        total = sizes.sum()
        whole = places.sum(dim=0, keepdim=True) / total
        shares, of_whole = self._shares(whole, (len(sizes) * (deviation / total) ** 2)[None, None])
        whole = whole * shares
        differences = places / sizes[:, None] - whole
        shares, of_differences = self._shares(differences, (deviation / sizes[:, None]) ** 2)
        slopes = (1 - of_differences) * of_whole / total + of_differences / sizes[:, None]
        return whole + differences * shares, slopes

    def without_noise(self, values: Tensor, variance: Tensor | float) -> Tensor:
        """Shorten waves ``[K, n]`` with noise of a variance, each band by the share that noise has in it."""
        return values * self._shares(values, variance)[0]

    def _shares(self, values: Tensor, variance: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return the shares of waves ``[K, n]`` that are not noise of a variance, one for a band. And the
        derivatives by waves of what is left of them, averaged over a band.
        """
        squares = self.basis.mean_by_band(values.square()).clamp(min=1e-30)
        shares = (1 - variance / squares).clamp(min=0)
        # The share itself grows with the waves: those of a band of d by 2 (1 - share) / d on average.
        return shares, torch.where(shares > 0, shares + 2 * (1 - shares) / self.basis.band_sizes, 0.0)


@dataclass(frozen=True, eq=False)
class Centred:
    """The second step, once the means are known. All of it follows from what was released, and is public.

    Attributes:
        moments: what is released.
        means: float64 ``[K, n]``, of waves less middle grey.
        spread: the mean squared weighted distance from the mean, by the first step.
        counted: float64 ``[K]``, how many images of each class were counted in the first step, with noise of
            this ``variance``.
        num_examples: N.
    """

    moments: Moments
    means: Tensor
    spread: float
    counted: Tensor
    variance: float
    num_examples: int

    @property
    def bound(self) -> float:
        """R, the longest weighted distance from the mean; longer ones are shortened to it."""
        return self.moments.clip * math.sqrt(self.spread)

    def stretch(self, sums: Tensor) -> float:
        """Return the share by which squared distances are larger than they were released, for long ones were
        shortened: at least 1, and at most `MOST_STRETCH`, for both are known with noise.
        """
        return min(MOST_STRETCH, max(1.0, self.spread / max(self._shortened(sums), 1e-30)))

    def least_spread(self, sums: Tensor, noise: float) -> float:
        """Return what the mean squared distance is at least, by what the second step released: that of the
        shortened distances, less two standard deviations of the noise on it.
        """
        numbers = sums[:, :-1, 0].numel()
        of_sum = noise * math.sqrt(numbers) * (1 + CONSTANT**2) * self.bound**2 / self.num_examples
        return max(0.0, self._shortened(sums) - 2 * of_sum)

    def _shortened(self, sums: Tensor) -> float:
        """Return the mean squared distance as it was released: long ones were shortened."""
        squares = sums[:, :-1, :-1].diagonal(dim1=1, dim2=2).sum() * (1 + CONSTANT**2) * self.bound**2
        return float(squares) / self.num_examples

    def sizes(self, sums: Tensor, noise: float) -> Tensor:
        """Return how many images each class has, float64 ``[K]``, by both steps.

        Args:
            sums: what the second step released, as matrices ``[K, n + 1, n + 1]``.
            noise: the standard deviation on every number of it.
        """
        if len(sums) == 1:
            return class_sizes(self.counted, 0.0, self.num_examples)
        of_one = CONSTANT**2 / (1 + CONSTANT**2)
        counted, variance = sums[:, -1, -1] / of_one, (noise / of_one) ** 2
        share = variance / (variance + self.variance)
        both = share * self.counted + (1 - share) * counted
        return class_sizes(both, share * self.variance, self.num_examples)

    def moved(self, sums: Tensor, noise: float, other: Centred) -> tuple[Tensor, float]:
        """Bring second moments about other means and with another bound to these means and this bound. That
        is exact but for what was shortened: where the other bound is smaller, most was, and lengths stay.

        Args:
            sums: what was released about the other means, ``[K, n + 1, n + 1]``.
            noise: the standard deviation on every number of it.
            other: the step in which it was released.

        Returns:
            The moments, and the standard deviation of the noise on those of distances: its root mean square,
            for with the means noise on other numbers is moved there too.
        """
        ratio = max(1.0, other.bound / self.bound)
        shift = (other.means - self.means) * (self.moments.weights / self.bound) / CONSTANT
        maps = torch.eye(sums.shape[1], dtype=sums.dtype).repeat(len(sums), 1, 1)
        maps[:, :-1, :-1] *= ratio
        maps[:, :-1, -1] = shift
        # Off the diagonal noise has 1/√2 of this deviation, but that on the count moves there whole.
        squares = float(shift.square().mean())
        grown = math.hypot(ratio**2 + squares, squares)
        return maps @ sums @ maps.transpose(1, 2), noise * grown

    def vectors(self, waves: Tensor, labels: Tensor | None) -> Tensor:
        """Return v of images of these classes, no longer than one: (distance / R, ½), ``[B, n + 1]``."""
        means, weights = self.means.to(waves.device), self.moments.weights.to(waves.device)
        chosen = means[:1] if labels is None else means[labels.to(waves.device)]
        distance = (waves.double() - chosen) * (weights / self.bound)
        distance = distance / torch.linalg.vector_norm(distance, dim=1, keepdim=True).clamp(min=1)
        v = F.pad(distance, (0, 1), value=CONSTANT)
        return v / math.sqrt(1 + CONSTANT**2)


def first_sums(
    moments: Moments, images: ImageSet, device: torch.device, tell: Tell | None = None
) -> dict[str, Tensor]:
    """Compute the sums of the first step without noise, private. ``tell`` is given how many images are done,
    and how many there are.
    """
    sums = {name: total.to(device) for name, total in moments.first.zero().items()}
    for waves, labels, shares in _waves(moments, images, device, tell):
        # In float32 a norm may be off by 1e-7; MeanEmbedding makes it one again.
        moments.first.add(sums, moments.first_features(waves), labels, shares)
    return sums


def second_sums(
    centred: Centred, images: ImageSet, device: torch.device, tell: Tell | None = None
) -> dict[str, Tensor]:
    """Compute the sums of the second step without noise, private; see `first_sums`."""
    second = centred.moments.second
    numbers = second.num_numbers
    sums = torch.zeros(second.num_classes, numbers, numbers, dtype=torch.float64, device=device)
    for waves, labels, shares in _waves(centred.moments, images, device, tell):
        second.add(sums, centred.vectors(waves, labels), labels, shares)
    return second.triangles(sums)


def _waves(
    moments: Moments, images: ImageSet, device: torch.device, tell: Tell | None
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Yield waves of all images, some at a time, with their labels and shares."""
    shares = None if images.units is None else images.units.shares
    at_a_time = 8 * rows_at_a_time(device)
    done = 0
    with torch.no_grad():
        for waves in by_row(moments.waves, images.blocks, images.shape, device, at_a_time, concurrent=True):
            some = slice(done, done + len(waves))
            labelled = moments.num_classes is not None and images.labels is not None
            labels = images.labels[some] if labelled and images.labels is not None else None
            yield waves, labels, None if shares is None else shares[some]
            done += len(waves)
            if tell:
                tell(done, len(images))
