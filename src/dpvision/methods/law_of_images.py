"""The clamped normal law of images that is made of released moments: post-processing, free of privacy
cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor

from dpvision.methods.clamped_law import clamped_law
from dpvision.methods.generator_fitting import public_leaves
from dpvision.methods.method import Workplace
from dpvision.methods.moments import CONSTANT, Centred
from dpvision.networks.clamped_normal import ClampedNormal

WARPS = ((0.0, 0.0), (0.03, 0.01), (0.06, 0.02), (0.1, 0.03), (0.14, 0.04), (0.18, 0.05))
"""Strengths of affine and elastic warps, of which the greatest that fits the release is taken."""
IMAGES_OF_A_CLASS = 500
"""The number of images of each class by which the strength of warps is chosen."""
CERTAINTY = 2.0
"""Of how many standard deviations of the noise a change must be to be taken for one."""


def law_of_images(
    centred: Centred,
    sums: Tensor,
    noise: float,
    image_shape: Sequence[int],
    class_names: Sequence[str],
    rank: int,
    num_details: int,
    warps: bool,
    workplace: Workplace,
) -> tuple[ClampedNormal, list[int]]:
    """Return a generator with the released moments, and for each class how many directions are above the
    noise.

    Args:
        centred: the second step.
        sums: what it released, with noise, as matrices: float64 ``[K, n + 1, n + 1]``.
        noise: the standard deviation on every number that was released.
        image_shape, class_names: of the generator.
        rank, num_details, warps: see :class:`~dpvision.methods.dp_moments.DPMomentsConfig`.
        workplace: is told how far it is.
    """
    moments = centred.moments
    rank, sides = min(rank, math.prod(moments.shape)), moments.shape[1:]
    smaller = sides != tuple(image_shape[1:])
    generator = ClampedNormal(image_shape, class_names, sides, rank, num_details if smaller else 0)
    sizes = centred.sizes(sums, noise)
    generator.class_proportions.copy_(sizes / sizes.sum())
    if len(generator.details):
        generator.set_details(public_leaves(num_details, image_shape))
    if warps:
        random = torch.Generator().manual_seed(workplace.seed)
        one, other = _thinned(sums, noise, random)
        _set_laws(generator, centred, one, sizes, math.sqrt(2) * noise, workplace, "trying laws of classes")
        strengths = _fitting_warps(generator, centred, other, sizes, math.sqrt(2) * noise, workplace)
        generator.warps.copy_(torch.tensor(strengths))
    kept = _set_laws(generator, centred, sums, sizes, noise, workplace, "making the laws of classes")
    return generator.eval(), kept


def _set_laws(
    generator: ClampedNormal,
    centred: Centred,
    sums: Tensor,
    sizes: Tensor,
    noise: float,
    workplace: Workplace,
    what: str,
) -> list[int]:
    """Give the generator the laws that noisy moments speak of, and return for each class how many directions
    are above the noise.
    """
    kept, stretch = [], centred.stretch(sums)
    for number, matrix in enumerate(sums):
        mean, covariance, count = _mean_and_covariance(centred, matrix, sizes[number], noise, number)
        law = clamped_law(mean, stretch * covariance, generator.root.shape[2])
        generator.location[number], generator.scale[number], generator.root[number] = law
        kept.append(count)
        if workplace.progress:
            workplace.progress(what, number + 1, len(sums))
    return kept


def _mean_and_covariance(
    centred: Centred, matrix: Tensor, size: Tensor, noise: float, number: int
) -> tuple[Tensor, Tensor, int]:
    """Return the mean ``[n]`` and covariance ``[n, n]`` of a class's pixels, and how many directions of the
    latter are above the noise.
    """
    moments = centred.moments
    per_image = (1 + CONSTANT**2) / size  # an image's vector is shorter by the root of the former
    difference = matrix[:-1, -1] * per_image / CONSTANT
    deviation = noise / math.sqrt(2) * per_image / CONSTANT  # off the diagonal
    difference = moments.without_noise(difference[None], deviation**2)[0]
    covariance = matrix[:-1, :-1] * per_image - difference[:, None] * difference
    low, count = _above_noise(covariance, noise * float(per_image))
    # What is left on the diagonal has little noise where it is averaged: waves that vary, each by itself.
    rest = moments.basis.mean_by_band((covariance - low).diagonal()).clamp(min=0)
    scales = centred.bound / moments.weights
    mean = centred.means[number] + scales * difference
    covariance = scales[:, None] * (low + rest.diag()) * scales
    pixels = moments.basis.images_of((mean.float() + moments.grey)[None]).flatten()
    half = moments.basis.images_of(covariance.float()).flatten(1)  # [waves, pixels]
    return pixels, moments.basis.images_of(half.T).flatten(1), count


def _above_noise(matrix: Tensor, noise: float) -> tuple[Tensor, int]:
    """Return a noisy matrix with its eigenvalues shrunk, and how many are left.

    Those of a symmetric matrix of n rows with such noise alone end at e = √(2n) times its standard deviation
    (Wigner). One below e is removed, and λ above it becomes √(λ² − e²), the best of all functions of it by
    squared error where few are above (Gavish and Donoho, arXiv 1405.7511, for singular values): it is λ
    without what noise has added, times how much of its direction is left.
    """
    values, vectors = torch.linalg.eigh(matrix)
    edge = noise * math.sqrt(2 * len(matrix))
    kept = values > edge
    shrunk = (values[kept].square() - edge**2).sqrt()
    return (vectors[:, kept] * shrunk) @ vectors[:, kept].T, int(kept.sum())


def _thinned(sums: Tensor, noise: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make two of noisy moments whose noise is independent, each √2 times as large: what is fitted to the one
    can be judged by the other. It costs nothing, for it is made of what was released.
    """
    drawn = torch.randn(sums.shape, generator=random, dtype=sums.dtype) * noise
    above = drawn.triu(1) / math.sqrt(2)  # the release has √2 times what is off the diagonal
    more = above + above.transpose(1, 2) + torch.diag_embed(drawn.diagonal(dim1=1, dim2=2))
    return sums + more, sums - more


def seconds_of_law(generator: ClampedNormal, centred: Centred) -> float:
    """Measure the time that the law of a class takes, made of noise; it is set."""
    matrix = torch.randn(2 * [centred.moments.second.num_numbers], dtype=torch.float64)
    sums, size = (matrix + matrix.T)[None], torch.ones(1, dtype=torch.float64)
    for _ in range(2):  # the first takes longer
        started = perf_counter()
        _set_laws(generator, centred, sums, size, 1.0, Workplace(torch.device("cpu")), "trying a law")
    return perf_counter() - started


def seconds_of_warps(generator: ClampedNormal, centred: Centred) -> float:
    """Measure the time that a class takes where the strength of warps is chosen."""
    smaller = _for_trial(generator)
    _drawn_moments(smaller, centred, 0, WARPS[0])  # the first takes longer
    started = perf_counter()
    _drawn_moments(smaller, centred, 0, WARPS[-1])
    return len(WARPS) * (perf_counter() - started)


@torch.no_grad()
def _fitting_warps(
    generator: ClampedNormal,
    centred: Centred,
    sums: Tensor,
    sizes: Tensor,
    noise: float,
    workplace: Workplace,
) -> tuple[float, float]:
    """Return the greatest of the warps that bring the moments of the generator's images nearer to those of
    the private images, by more than the noise may pretend: images that vary as much as these may.

    The squared distance of the moments is estimated without bias, up to what is the same for all: the
    generator knows nothing of the noise in these sums, and of a sample's squared norm only products of
    different images count.
    """
    smaller = _for_trial(generator)
    change, variance = torch.zeros(2, len(WARPS), dtype=torch.float64)
    for number, (size, total) in enumerate(zip(sizes, sums, strict=True)):
        before, length = _drawn_moments(smaller, centred, number, WARPS[0])
        for place, strengths in enumerate(WARPS[1:], start=1):
            after, new_length = _drawn_moments(smaller, centred, number, strengths)
            moved = after - before
            change[place] += size**2 * (new_length - length) - 2 * size * (moved * total).sum()
            variance[place] += (2 * size * noise) ** 2 * moved.square().sum()
        if workplace.progress:
            workplace.progress("trying warps", number + 1, len(sums))
    nearer = (change < -CERTAINTY * variance.sqrt()).nonzero()
    return WARPS[int(nearer.max())] if len(nearer) else WARPS[0]


def _for_trial(generator: ClampedNormal) -> ClampedNormal:
    """Return the generator by which warps are chosen, of images no larger than twice the moments' sides: of
    larger ones the moments see an average. At these sides themselves a warp blurs what no larger image has.
    """
    both = zip(generator.small_shape[1:], generator.image_shape[1:], strict=True)
    return generator.averaged([min(2 * small, side) for small, side in both])


def _drawn_moments(
    generator: ClampedNormal, centred: Centred, number: int, warps: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Return the mean second moments of a class's images with such warps, always of the same noise, and an
    estimate without bias of their squared norm.
    """
    generator.warps.copy_(torch.tensor(warps))
    labels = torch.full((IMAGES_OF_A_CLASS,), number)
    images = generator.sample(len(labels), labels=labels if generator.class_names else None, seed=number)
    v = centred.vectors(centred.moments.waves(images.take(torch.arange(len(images)))), labels)
    products = (v @ v.T).square()
    length = (products.sum() - products.trace()) / (len(v) * (len(v) - 1))
    return v.T @ v / len(v), length
