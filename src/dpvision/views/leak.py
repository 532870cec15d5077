"""A test that every view policy must pass before it trains on private images."""

from __future__ import annotations

import torch

from dpvision.privacy import ExampleDraws, InputError, SeededRandom
from dpvision.views.policy import ViewPolicy

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
    name = type(policy).__name__
    for seed in range(SEEDS):
        random, everyone = SeededRandom(seed), torch.arange(EXAMPLES)
        pixels = (random.uniform((EXAMPLES, *shape)) * 256).byte()
        targets = everyone % 2
        all_draws = random.by_example().of(everyone)

        def views_of(
            pixels: torch.Tensor, targets: torch.Tensor, draws: ExampleDraws = all_draws
        ) -> list[torch.Tensor]:
            return list(policy(pixels.clone(), targets.clone(), draws[:]))  # from their beginning, each time

        before = views_of(pixels, targets)
        if any(made.shape[:2] != (EXAMPLES, policy.views_per_example) for made in before):
            raise InputError(
                f"view policy {name} must return views and targets of shape [B, K, …] with "
                f"K = {policy.views_per_example}, but returned {[list(made.shape) for made in before]}"
            )
        if not _equal(before, views_of(pixels, targets)):
            raise InputError(f"view policy {name} must have all its randomness from the draws it is given")
        for changed in range(EXAMPLES):
            other_pixels, other_targets = pixels.clone(), targets.clone()
            other_pixels[changed] = 255 - pixels[changed]
            other_targets[changed] = 1 - targets[changed]
            others = everyone != changed
            expected = [made[others] for made in before]
            after = [made[others] for made in views_of(other_pixels, other_targets)]
            without = views_of(pixels[others], targets[others], all_draws[others])
            if not (_equal(expected, after) and _equal(expected, without)):
                raise InputError(
                    f"view policy {name} lets one private example into the views of another, which breaks "
                    "the privacy guarantee; make each example's views from that example and public data alone"
                )


def _equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
