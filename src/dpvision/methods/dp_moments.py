"""Synthetic images from the moments of each class, released in two steps: first roughly where a class is,
then how its images differ from there.

The bound on what an image can add is what the noise is scaled to. An image is long, but not far from the mean
of its class: so a small share of the budget pays for these means, and the rest for second moments about them,
with a bound on the distance (staged clipping; compare Biswas et al., arXiv 2006.06618). Images are then drawn
from a clamped normal law with these moments (:mod:`dpvision.methods.law_of_images`), at no further cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from dpvision.images import Images
from dpvision.methods.details import with_fitting_details
from dpvision.methods.estimates import Estimate, seconds_per_drawing
from dpvision.methods.generator_fitting import leaves
from dpvision.methods.law_of_images import law_of_images, seconds_of_law, seconds_of_warps
from dpvision.methods.method import Finished, Learned, Makes, Workplace
from dpvision.methods.moments import Centred, Moments, first_sums, second_sums
from dpvision.methods.releases import EarlierVersionError, check_sums, mean_of, read_release, stated
from dpvision.methods.session import Session
from dpvision.methods.settings import check, check_settings, check_share, setting_types, with_overrides
from dpvision.methods.stages import Stage
from dpvision.networks.by_row import rows_at_a_time
from dpvision.networks.clamped_normal import ClampedNormal
from dpvision.networks.weights import safetensors_bytes
from dpvision.priors.processes import SMALLEST_SIZE
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts
from dpvision.privacy.values import check_weight

FIRST, SECOND, ABOUT = "first", "second", "about"
"""What the tensors of the two steps are called by, and those that the second follows from: the means that it
is about, and the mean squared distance from these by the first, which its bound is of.
"""

MOMENTS = "moments.safetensors"
"""The name of the moments' file in a release."""

OF_RELEASE = ("size", "share_of_means", "emphasis", "clip", "count_weight")
"""The settings that are part of what is released, beside whether it is by class."""

LEAST_SPREAD = "least_spread"
"""The fact that says what the mean squared distance of the second step is at least, by an earlier run."""

LARGEST_SIDES = {1: 28, 3: 16}
"""Largest side, in pixels, of images whose moments are released, by channels (1 grey, 3 RGB)."""

MOST_NUMBERS = 25_000_000
"""The most numbers that second moments may have, all classes together: 200 MB in float64."""

DETAILS_TRIED = 16
"""The number of details by whose time that of all is estimated."""

SMALLEST_SHARE, LARGEST_SHARE = 1 / 16, 1 / 2
"""Range of the default share of the first step."""


@dataclass(frozen=True, kw_only=True)
class DPMomentsConfig:
    """Everything public about a run but the data and the budget.

    Attributes:
        size: is the side in pixels to which images are averaged before their moments are released.
        labelled: says whether moments are released by class, and images drawn by class.
        share_of_means: is the share of the budget, in terms of 1/σ², of the first step.
        emphasis: weights a wave of frequency f, in half periods, by (1 + f) to this power: fine waves are
            small in all images, and would be lost in noise first.
        clip: is the bound on the weighted distance from the mean, in units of its root mean square.
        count_weight: is the weight of the class counts in the first step; the larger, the less noise on them.
        rank: limits the number of directions in which the images of a class vary together.
        warps: says whether images may be warped at random, where the released moments are nearer to those of
            warped images.
        num_details: says how many public images, made by a random process, give images their details, where
            they are larger than ``size``; by default none do where these are less than one and a half times
            as large.

    Raises:
        InputError: a value is out of range.
    """

    size: int
    labelled: bool = True
    share_of_means: float
    emphasis: float = 0.25
    clip: float = 1.0
    count_weight: float = 0.2
    rank: int = 256
    warps: bool = True
    num_details: int = 1000

    def __post_init__(self) -> None:
        share = self.share_of_means
        check(self.size >= 1, "size", "at least 1", self.size)
        check_share(share, "share_of_means")
        check(0 <= self.emphasis <= 2, "emphasis", "between 0 and 2", self.emphasis)
        check_weight(self.clip, "clip")
        check_weight(self.count_weight, "count_weight")
        check(self.rank >= 1, "rank", "at least 1", self.rank)
        check(0 <= self.num_details <= 10_000, "num_details", "between 0 and 10,000", self.num_details)

    def moments(self, facts: PublicFacts) -> Moments:
        """Return what is released of such images."""
        channels, height, width = facts.image_shape
        sides = (min(height, self.size), min(width, self.size))
        names = facts.class_names if self.labelled else ()
        return Moments((channels, *sides), len(names) or None, self.emphasis, self.clip, self.count_weight)


class DPMoments:
    """Draw images from clamped normal laws with noisy moments, released in two steps."""

    name = "dp-moments"
    makes: Makes = "images"
    needs_labels = False
    config_class: type = DPMomentsConfig
    of_generator = tuple(setting_types(DPMomentsConfig))

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPMomentsConfig:
        """Choose the size by the images' shape and the number of classes."""
        channels, height, width = facts.image_shape
        classes = max(1, len(facts.class_names))
        numbers = math.isqrt(MOST_NUMBERS // classes) - 1  # one of a vector is the constant
        fitting = math.isqrt(max(1, numbers // channels))
        size = min(height, width, LARGEST_SIDES[channels], fitting)
        # The fewer images of a class there are for its numbers, the more of the budget their mean needs.
        load = channels * size**2 * classes / facts.num_examples
        share = min(LARGEST_SHARE, max(SMALLEST_SHARE, load / 2))
        labelled = bool(facts.class_names)
        config = with_overrides(
            DPMomentsConfig(size=size, share_of_means=share, labelled=labelled), overrides
        )
        if config.labelled and not facts.class_names:
            raise InputError("the images have no labels; give labelled images, or set labelled to false")
        _check_size(config, facts)
        return with_fitting_details(config, overrides, config.size, facts.image_shape)

    def stages(
        self, config: DPMomentsConfig, facts: PublicFacts, noise_multiplier: float
    ) -> tuple[Stage, ...]:
        """Return one stage for each of the two steps, of one release each."""
        moments, share, count = config.moments(facts), config.share_of_means, facts.num_examples
        means = moments.first.mechanism(noise_multiplier / math.sqrt(share), count)
        rest = moments.second.mechanism(noise_multiplier / math.sqrt(1 - share), count)
        of_class = "class-wise " if config.labelled else ""
        counts = " and class counts" if config.labelled else ""
        return (
            Stage(f"{of_class}sums of images, their squared lengths{counts}", means, 1),
            Stage(f"{of_class}second moments about the means", rest, 1),
        )

    def estimate(self, config: DPMomentsConfig, facts: PublicFacts, device: torch.device) -> Estimate:
        """Estimate what a run takes; see :class:`Method`."""
        moments, classes = config.moments(facts), len(facts.class_names)
        count = 8 * rows_at_a_time(device)
        pixels = torch.randint(256, (count, *facts.image_shape), dtype=torch.uint8)
        labels = torch.arange(count) % classes if classes else None
        images = Images(pixels, labels, facts.class_names, "random images")
        first_sums(moments, images, device)  # the first takes longer
        started = perf_counter()
        first = {name: total.cpu() for name, total in first_sums(moments, images, device).items()}
        centred = moments.centred(first, 1.0, count)
        second_sums(centred, images, device)
        seconds = facts.num_examples * (perf_counter() - started) / count
        blocks, numbers = moments.second.num_classes, moments.second.num_numbers
        memory = facts.num_examples * math.prod(facts.image_shape) + 4 * 8 * blocks * numbers**2
        details = config.num_details if moments.shape != facts.image_shape else 0
        if details:
            side = max(*facts.image_shape[1:], SMALLEST_SIZE)
            started = perf_counter()
            leaves(DETAILS_TRIED, side)
            seconds += details * (perf_counter() - started) / DETAILS_TRIED
            memory += details * (3 * 4 * side**2 + math.prod(facts.image_shape))
        rank = min(config.rank, numbers - 1)
        generator = ClampedNormal(facts.image_shape, (), moments.shape[1:], rank, details).eval()
        of_law = seconds_of_law(generator, centred)
        seconds += blocks * of_law
        if config.warps:  # which are judged by laws of their own
            seconds += blocks * (of_law + seconds_of_warps(generator, centred))
        return Estimate(seconds, memory, seconds_per_drawing(generator))

    def learn(self, config: DPMomentsConfig, session: Session) -> Learned:
        """Release the means, then the second moments about them."""
        moments, facts = config.moments(session.facts), session.facts
        of_means, of_rest = _noises(session)
        first = _first_step(session, moments)
        centred = moments.centred(first, of_means, facts.num_examples)
        second = _second_step(session, centred)
        kept = {name: getattr(config, name) for name in OF_RELEASE}
        about = stated(self.name, facts, config.labelled) | {LEAST_SPREAD: 0.0} | kept
        return _of_steps(first, of_means, centred, second, of_rest, about)

    def finish(
        self, config: DPMomentsConfig, learned: Learned, facts: PublicFacts, workplace: Workplace
    ) -> Finished:
        """Make the law of each class of what was released."""
        moments, noise = config.moments(facts), learned.facts["noise"]
        centred = _centred(moments, learned)
        names = facts.class_names if config.labelled else ()
        generator, kept = law_of_images(
            centred,
            moments.second.matrices(_part(learned, SECOND)),
            noise[1],
            facts.image_shape,
            names,
            rank=config.rank,
            num_details=config.num_details,
            warps=config.warps,
            workplace=workplace,
        )
        card = {
            "moments": {
                "numbers": sum(
                    total.numel() for step in (FIRST, SECOND) for total in _part(learned, step).values()
                ),
                "noise_standard_deviations": noise,
                "bound": centred.bound,
                "directions_above_noise": kept,
                "warps": dict(zip(("affine", "elastic"), generator.warps.tolist(), strict=True)),
            }
        }
        files = {MOMENTS: safetensors_bytes(learned.tensors, learned.facts)}
        return Finished(generator.to(workplace.device), files, card)

    def open_release(self, path: Path) -> Learned:
        """Read moments."""
        return read_release(path, check_moments)

    def settings_of_release(self, learned: Learned) -> dict[str, Any]:
        """Return the settings that are part of what was released."""
        kept = {name: learned.facts[name] for name in OF_RELEASE}
        return kept | {"labelled": bool(learned.facts["class_names"])}

    def learn_again(self, config: DPMomentsConfig, earlier: Learned, session: Session) -> Learned:
        """Release both steps once more, the second about the means that both runs know. What the earlier run
        released about its own is brought to these.
        """
        moments, noises = config.moments(session.facts), _noises(session)
        before, (of_means, of_rest) = _centred(moments, earlier), earlier.facts["noise"]
        sums, of_means = mean_of(_part(earlier, FIRST), of_means, _first_step(session, moments), noises[0])
        second = moments.second.matrices(_part(earlier, SECOND))
        least_spread = max(earlier.facts[LEAST_SPREAD], before.least_spread(second, of_rest))
        centred = moments.centred(sums, of_means, session.facts.num_examples, least_spread)
        again = _second_step(session, centred)
        moved, of_rest = centred.moved(second, of_rest, before)
        both, of_rest = mean_of(moments.second.triangles(moved), of_rest, again, noises[1])
        about = {**earlier.facts, LEAST_SPREAD: least_spread}
        return _of_steps(sums, of_means, centred, both, of_rest, about)


def _centred(moments: Moments, learned: Learned) -> Centred:
    """Return the second step of what was released, as it was: what follows from the first may change with
    versions.
    """
    facts = learned.facts
    about = _about(learned)
    means, spread = about["means"], float(about["spread"])
    first, noise = _part(learned, FIRST), facts["noise"][0]
    return moments.as_released(first, noise, facts["num_examples"], means, spread)


def _about(learned: Learned) -> dict[str, Tensor]:
    """Return what the second step was about. EarlierVersionError where that is not said."""
    about = _part(learned, ABOUT)
    if not about:
        raise EarlierVersionError(
            "was released by an earlier version, which did not say about which means; make more of it by "
            "that version, or release anew"
        )
    return about


def _noises(session: Session) -> list[float]:
    """Return the standard deviations of the noise on every number of the two steps, the first stages."""
    return [stage.deviation for stage in session.stages.stages[:2]]


def _first_step(session: Session, moments: Moments) -> dict[str, Tensor]:
    """Release sums of images and of their squared lengths, and class counts."""
    tell = partial(session.tell, "reading images for the means")
    return session.release(
        0, lambda images: first_sums(moments, images, session.device, tell), moments.first.zero()
    )


def _second_step(session: Session, centred: Centred) -> dict[str, Tensor]:
    """Release second moments about the means."""
    tell = partial(session.tell, "reading images for what differs from the means")
    return session.release(
        1,
        lambda images: second_sums(centred, images, session.device, tell),
        centred.moments.second.blank(),
    )


def _of_steps(
    first: Mapping[str, Tensor],
    of_means: float,
    centred: Centred,
    second: Mapping[str, Tensor],
    of_rest: float,
    about: Mapping[str, Any],
) -> Learned:
    """Return what was released in both steps, with the standard deviations of its noise, what the second is
    about and other facts.
    """
    follows = {"means": centred.means, "spread": torch.tensor([centred.spread])}
    tensors = {
        f"{part}.{name}": total.float()
        for part, sums in ((FIRST, first), (ABOUT, follows), (SECOND, second))
        for name, total in sums.items()
    }
    return Learned(tensors, {**about, "noise": [of_means, of_rest]})


def _part(learned: Learned, step: str) -> dict[str, Tensor]:
    """Return what was released in a step, `FIRST` or `SECOND`, by name, or `ABOUT` what the second was."""
    of_step = f"{step}."
    return {n.removeprefix(of_step): t for n, t in learned.tensors.items() if n.startswith(of_step)}


def _check_size(config: DPMomentsConfig, facts: PublicFacts) -> None:
    """Raise InputError where there would be too many numbers."""
    blocks = max(1, len(facts.class_names)) if config.labelled else 1
    numbers = blocks * config.moments(facts).second.num_numbers ** 2
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"size {config.size} makes {numbers:,} second moments of {blocks} classes, more than "
            f"{MOST_NUMBERS:,}; choose a smaller size"
        )


def check_moments(learned: Learned, facts: PublicFacts) -> None:
    """Raise ValueError, TypeError, … unless tensors are the two releases that their facts speak of."""
    kept = {name: learned.facts[name] for name in OF_RELEASE}
    about = _about(learned)
    check_settings(DPMomentsConfig, kept)
    config = DPMomentsConfig(**kept, labelled=bool(facts.class_names))
    _check_size(config, facts)
    of_means, of_rest = learned.facts["noise"]
    if not (0 <= of_means < math.inf and 0 <= of_rest < math.inf):
        raise ValueError("its noise has no standard deviation")
    if not 0 <= learned.facts[LEAST_SPREAD] < math.inf:
        raise ValueError("its mean squared distance is no number")
    moments = config.moments(facts)
    blocks, numbers = moments.second.num_classes, moments.second.num_numbers
    shapes = {
        f"{FIRST}.first": [blocks, moments.first.num_features],
        f"{ABOUT}.means": [blocks, numbers - 1],
        f"{ABOUT}.spread": [1],
        f"{SECOND}.moments": [blocks, numbers * (numbers + 1) // 2],
    }
    if facts.class_names:
        shapes[f"{FIRST}.counts"] = [blocks]
    check_sums(learned.tensors, shapes)
    if not float(about["spread"]) > 0:
        raise ValueError("its images have no distance from their means")
