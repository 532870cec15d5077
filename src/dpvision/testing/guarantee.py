"""Compare a run on a data set with the same run on neighbours of it: what differs must be paid for."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from scipy.stats import chi2

from dpvision.gradients.chunks import MOST_IMAGES
from dpvision.images import Images
from dpvision.privacy import GaussianSumMechanism, InputError, Mechanism, NeighboringRelation
from dpvision.testing.neighbours import Neighbours, neighbours
from dpvision.testing.recording import OURS, Release, Transcript, recorded

Run = Callable[[Images, Path], Path]
"""A function that learns from images by releases of mechanisms, under a fixed seed, in a new folder. It
returns the folder, of it or in it, that holds what may be published and nothing else.
"""

ROUNDING = 1e-5
"""The most that rounding a release to float32 may make of it, relative to the release's norm."""

IMPROBABLE = 1e-9
"""Probability of a statistic of right noise below which it counts as a fault."""


class GuaranteeBroken(AssertionError):  # noqa: N818 (reads as what happened)
    """A run on neighbours differed by what the mechanism did not cover; the message says in what."""


@dataclass(frozen=True)
class Comparison:
    """A run on two neighbours.

    Attributes:
        neighbours: what the neighbours differ by, in words.
        releases: how many there were.
        emptied: batches that held the one example alone, and none in the neighbour.
        largest: distance of the sums before noise, over all releases, as a share of what was declared.
    """

    neighbours: str
    releases: int
    emptied: int
    largest: float


def check_guarantee(
    run: Run,
    images: Images,
    neighboring_relation: NeighboringRelation,
    example: int = -1,
    mechanisms: Sequence[type[Mechanism]] = OURS,
) -> list[Comparison]:
    """Make a run on images and again on each of their `neighbours`, and compare.

    At every release, given the same past: the sums before noise are no further apart than is declared; the
    event is in the account before the noise is drawn; the noise is drawn from the run's own source and is the
    same for both. That of a `GaussianSumMechanism` has the declared standard deviation and is not that of the
    release before; of another mechanism only its author can say how it should be. All examples but the one
    are in the same batches with the same views, bit by bit. All else that is declared public, and every file
    that may be published, is the same, byte by byte.

    Args:
        run: what to check. Its number of examples N and its settings must not follow from the images: N is
            public.
        images: from three to 256, real ones or random.
        neighboring_relation: the relation of the neighbours.
        example: the index of the image by which they differ, any of them; or by whose unit.
        mechanisms: the classes of the mechanisms by which it releases.

    Raises:
        GuaranteeBroken: in something they differ.
        InputError: too few or too many images, or the example that differs was never part of a release, so
            that nothing was checked.
    """
    if len(images) > MOST_IMAGES:
        raise InputError(f"check the guarantee on at most {MOST_IMAGES} images, not {len(images)}")
    comparisons = []
    with tempfile.TemporaryDirectory() as folder:
        for data, pairs in groupby(neighbours(images, neighboring_relation, example), lambda pair: pair.data):
            with recorded(None, mechanisms) as first:
                published = run(data, _new(folder))
            found = [
                _compared(run, pair, first, published, folder, neighboring_relation, mechanisms)
                for pair in pairs
            ]
            if not any(comparison.largest > 0 for comparison in found):
                raise InputError(
                    "the example that differs was part of no release; take more steps or another seed"
                )
            comparisons += found
    return comparisons


def _compared(
    run: Run,
    pair: Neighbours,
    first: Transcript,
    published: Path,
    folder: str,
    neighboring_relation: NeighboringRelation,
    mechanisms: Sequence[type[Mechanism]],
) -> Comparison:
    """Replay a run that was made on a pair's data on its neighbour. GuaranteeBroken as `check_guarantee`."""
    with recorded(first, mechanisms) as second:
        try:
            published_again = run(pair.neighbour, _new(folder))
        except Exception as error:
            raise GuaranteeBroken(f"{pair.name}: the run fails ({error})") from error
    faults = [
        *_faults_of_noise(first),
        *_differing_batches(pair, first, second),
        *_differences(first, second, neighboring_relation),
        *_differing_files(published, published_again),
    ]
    if faults:
        raise GuaranteeBroken(f"{pair.name}: " + "; ".join(faults))
    return _comparison(pair.name, first, second, neighboring_relation)


def _new(folder: str) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def _bound(release: Release, neighboring_relation: NeighboringRelation) -> float:
    """Return how far apart the sums of neighbours may be."""
    mechanism = release.mechanism
    ratio = mechanism.replace_one_ratio if neighboring_relation == "replace_one" else 1.0
    return ratio * mechanism.sensitivity


def _comparison(
    name: str, first: Transcript, second: Transcript, neighboring_relation: NeighboringRelation
) -> Comparison:
    pairs = list(zip(first.releases, second.releases, strict=True))
    batches = zip(first.batches, second.batches, strict=True)
    return Comparison(
        neighbours=name,
        releases=len(pairs),
        emptied=sum(len(before) == 1 and len(after) == 0 for before, after in batches),
        largest=max(before.distance(after) / _bound(before, neighboring_relation) for before, after in pairs),
    )


def _faults_of_noise(transcript: Transcript) -> Iterator[str]:
    """Yield, in words, what is wrong with the noise of a run."""
    if not transcript.releases:
        yield "nothing was released by a mechanism"
        return
    previous, products, of_gaussians = torch.empty(0), [], []
    for number, release in enumerate(transcript.releases, start=1):
        if release.order != ("recorded", "drawn"):
            order = ", ".join(release.order) or "nothing"
            yield f"release {number}: recorded, then drawn, was to be its order, and not: {order}"
        if release.recorded != (release.mechanism.cost(1),):
            yield f"release {number}: it was not recorded as the event that its mechanism states"
        if not isinstance(release.mechanism, GaussianSumMechanism):
            continue
        noise = release.noise / release.mechanism.standard_deviation
        of_gaussians.append(noise)
        yield from _faulty_size(f"release {number}", noise)
        if previous.shape == noise.shape:
            products.append(previous * noise)
            if is_correlated(products[-1]):
                yield f"release {number}: the noise is correlated with that of the release before"
        previous = noise
    # What is too little to tell in one release of few numbers may be told over all.
    if of_gaussians:
        yield from _faulty_size("all releases", torch.cat(of_gaussians))
    if products and is_correlated(torch.cat(products)):
        yield "all releases: the noise of each is correlated with that of the one before"


def is_correlated(products: torch.Tensor) -> bool:
    """Say whether the sum is too large for products of independent standard normal numbers.

    Of n of them, P[sum ≥ s] ≤ (1 − t²)^(−n/2)·e^(−ts) for every t in (0, 1) (Chernoff).
    """
    count, total = len(products), abs(float(products.sum()))
    t = (math.hypot(count, 2 * total) - count) / (2 * total) if total else 0.0  # where that is least
    return 2 * math.exp(-count / 2 * math.log1p(-(t**2)) - t * total) < IMPROBABLE


def _faulty_size(where: str, noise: torch.Tensor) -> Iterator[str]:
    """Yield what is wrong with the noise's size: squares of standard normal numbers are chi-squared."""
    total, count = float(noise.square().sum()), len(noise)
    if min(chi2.cdf(total, count), chi2.sf(total, count)) < IMPROBABLE:
        deviation = math.sqrt(total / count)
        yield f"{where}: the noise has {deviation:.3g} times the declared standard deviation"


def _differing_batches(pair: Neighbours, first: Transcript, second: Transcript) -> Iterator[str]:
    """Yield, in words, in which batches examples that are in both data sets are not as they were."""
    if len(first.batches) != len(second.batches):
        yield f"there were {len(second.batches)} batches in place of {len(first.batches)}"
    changed = int(pair.data.protected_ids[pair.index])
    present = set(pair.neighbour.protected_ids.tolist())
    for number, (before, after) in enumerate(zip(first.batches, second.batches, strict=False), start=1):
        if before.keys() & present != after.keys():
            yield f"batch {number}: it differs by other examples than the one"
        elif any(before[one] != digest for one, digest in after.items() if one != changed):
            yield f"batch {number}: the views of other examples than the one differ"
    for number, (earlier, later) in enumerate(zip(first.norms, second.norms, strict=False), start=1):
        others = (one for one in later.keys() & earlier.keys() if one != changed)
        if any(repr(earlier[one]) != repr(later[one]) for one in others):
            yield f"sum {number}: the gradients of other examples than the one differ"


def _differences(
    first: Transcript, second: Transcript, neighboring_relation: NeighboringRelation
) -> Iterator[str]:
    """Yield, in words, what of a replayed run is not as in the first and should be."""
    if len(first.releases) != len(second.releases):
        yield f"there were {len(second.releases)} releases in place of {len(first.releases)}"
    for number, (before, after) in enumerate(zip(first.releases, second.releases, strict=False), start=1):
        if _public(before) != _public(after):
            yield f"release {number}: {_public(after)} is public and was {_public(before)}"
            continue
        distance, bound = before.distance(after), _bound(before, neighboring_relation)
        if not distance <= bound:
            yield f"release {number}: the sums differ by {distance:.6g}, more than {bound:.6g}"
        # The sums of the two runs differ: a float32 of each has lost another rounding error to the noise. It
        # is relative to the noise's deviation, which of few numbers cannot be seen.
        mechanism = before.mechanism
        declared = mechanism.standard_deviation if isinstance(mechanism, GaussianSumMechanism) else 0.0
        unit = max(declared, float(before.noise.square().mean().sqrt()))
        released = (*before.noisy.values(), *after.noisy.values())
        lost = ROUNDING * (unit + max(float(noisy.abs().max()) for noisy in released))
        if not torch.allclose(before.noise, after.noise, rtol=0, atol=lost):
            yield f"release {number}: the noise depends on the data"


def _public(release: Release) -> tuple[object, ...]:
    """Return all of a release that is declared public."""
    mechanism = release.mechanism
    shapes = {name: tuple(total.shape) for name, total in release.sums.items()}
    sampler = mechanism.sampler
    return (
        mechanism.cost(1),
        mechanism.sensitivity,
        mechanism.replace_one_ratio,
        sampler.num_examples,
        sampler.expected_batch_size,
        shapes,
    )


def _differing_files(published: Path, published_again: Path) -> Iterator[str]:
    """Yield, in words, which published files differ."""
    before, after = _files(published), _files(published_again)
    if not before:
        yield f"nothing was published in {published.name}"
    for name in sorted(before.keys() | after.keys()):
        if name not in after or name not in before:
            yield f"{name} is published for one of them only"
        elif before[name] != after[name]:
            yield f"{name}, which is published, differs"


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
