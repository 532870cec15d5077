"""A test that every view policy must pass before it trains on private images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dpvision.privacy import ExampleDraws, InputError, SeededRandom
from dpvision.views.policy import UnitPolicy, ViewPolicy

EXAMPLES = 4
SEEDS = 8


def check_no_leak(policy: ViewPolicy, shape: tuple[int, ...]) -> None:
    """Check by trial that views of an example depend on no other example of the batch.

    Changes one example of a random batch at a time, pixels and target, and takes it away, and compares the
    views and targets of all others: they draw the same numbers, and must stay the same, bit by bit. A trial
    can miss a leak that happens rarely; it catches mixing across the batch, statistics of the batch, and the
    like.

    Args:
        policy: the policy to check.
        shape: the shape of the examples it will see, such as (C, H, W).

    Raises:
        InputError: if the policy leaks, does not return ``[B, K, …]``, or has randomness from elsewhere.
    """
    targets = torch.arange(EXAMPLES) % 2
    _check(policy, policy, policy.views_per_example, shape, targets, 1 - targets)


def check_no_leak_of_units(policy: ViewPolicy, shape: tuple[int, ...], num_classes: int) -> UnitPolicy:
    """Check the same of the views of units: that they depend on no image of another unit. Return the policy.

    Args:
        policy: the policy to check.
        shape: the shape of the images, or of what was made of each.
        num_classes: how many there are.

    Raises:
        InputError: as `check_no_leak`, or it makes views of single images alone.
    """
    if not isinstance(policy, UnitPolicy):
        raise InputError(
            f"view policy {type(policy).__name__} makes views of single images, not of units of several; "
            "give it `of_units` (dpvision.views.UnitPolicy), or leave units out"
        )
    images = policy.images_of_a_unit or 2
    labels = torch.arange(EXAMPLES * images).view(EXAMPLES, images) % num_classes
    targets = F.one_hot(labels, num_classes).float()
    num_views = images if policy.images_of_a_unit is None else policy.views_per_example
    _check(policy, policy.of_units, num_views, (images, *shape), targets, targets.roll(1, dims=2))
    return policy


def _check(
    policy: ViewPolicy,
    make: Callable[[Tensor, Tensor, ExampleDraws], tuple[Tensor, Tensor]],
    num_views: int,
    shape: tuple[int, ...],
    targets: Tensor,
    others_in_place: Tensor,
) -> None:
    """Check that no example moves the views of another, as many of which a policy makes by ``make``, with
    other targets in place of its own.
    """
    name = type(policy).__name__
    for seed in range(SEEDS):
        random, everyone = SeededRandom(seed), torch.arange(EXAMPLES)
        pixels = (random.uniform((EXAMPLES, *shape)) * 256).byte()
        all_draws = random.by_example().of(everyone)

        def views_of(pixels: Tensor, targets: Tensor, draws: ExampleDraws = all_draws) -> list[Tensor]:
            return list(make(pixels.clone(), targets.clone(), draws[:]))  # from their beginning, each time

        before = views_of(pixels, targets)
        if any(made.shape[:2] != (EXAMPLES, num_views) for made in before):
            raise InputError(
                f"view policy {name} must return views and targets of shape [B, K, …] with "
                f"K = {num_views}, but returned {[list(made.shape) for made in before]}"
            )
        if not _equal(before, views_of(pixels, targets)):
            raise InputError(f"view policy {name} must have all its randomness from the draws it is given")
        for changed in range(EXAMPLES):
            other_pixels, other_targets = pixels.clone(), targets.clone()
            other_pixels[changed] = 255 - pixels[changed]
            other_targets[changed] = others_in_place[changed]
            others = everyone != changed
            expected = [made[others] for made in before]
            after = [made[others] for made in views_of(other_pixels, other_targets)]
            without = views_of(pixels[others], targets[others], all_draws[others])
            if not (_equal(expected, after) and _equal(expected, without)):
                raise InputError(
                    f"view policy {name} lets one private example into the views of another, which breaks "
                    "the privacy guarantee; make each example's views from that example and public data alone"
                )


def _equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
