"""A test that every view policy must pass before it trains on private images."""

from __future__ import annotations

import torch

from dpvision.privacy.errors import InputError
from dpvision.views.policy import ViewPolicy

EXAMPLES = 4
SEEDS = 8


def check_no_leak(policy: ViewPolicy, shape: tuple[int, ...]) -> None:
    """Check by trial that views of an example depend on no other example of the batch.

    Changes one example of a random batch at a time, pixels and target, and compares the views and targets of
    all others under the same generator seed, which must be identical. A trial can miss a leak that happens
    rarely; it catches mixing across the batch, statistics of the batch, and the like.

    Args:
        policy: the policy to check.
        shape: of the examples it will see, such as (C, H, W).

    Raises:
        InputError: if the policy leaks, does not return ``[B, K, …]``, or draws randomness of its own.
    """
    name = type(policy).__name__
    for seed in range(SEEDS):
        pixels = torch.randint(
            256, (EXAMPLES, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
        )
        targets = torch.arange(EXAMPLES) % 2

        def views_of(pixels: torch.Tensor, targets: torch.Tensor, seed: int = seed) -> list[torch.Tensor]:
            return list(policy(pixels.clone(), targets.clone(), torch.Generator().manual_seed(seed)))

        before = views_of(pixels, targets)
        if any(made.shape[:2] != (EXAMPLES, policy.views_per_example) for made in before):
            raise InputError(
                f"view policy {name} must return views and targets of shape [B, K, …] with "
                f"K = {policy.views_per_example}, but returned {[list(made.shape) for made in before]}"
            )
        if not _equal(before, views_of(pixels, targets)):
            raise InputError(
                f"view policy {name} must draw all its randomness from the generator it is given"
            )
        for changed in range(EXAMPLES):
            other_pixels, other_targets = pixels.clone(), targets.clone()
            other_pixels[changed] = 255 - pixels[changed]
            other_targets[changed] = 1 - targets[changed]
            others = torch.arange(EXAMPLES) != changed
            after = views_of(other_pixels, other_targets)
            if not _equal([made[others] for made in before], [made[others] for made in after]):
                raise InputError(
                    f"view policy {name} lets one private example into the views of another, which breaks "
                    "the privacy guarantee; make each example's views from that example and public data alone"
                )


def _equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
