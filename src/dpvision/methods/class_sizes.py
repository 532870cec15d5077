"""Tell how many images classes have, by noisy counts."""

from __future__ import annotations

import math

from torch import Tensor


def class_sizes(counted: Tensor, variance: float, num_examples: int) -> Tensor:
    """Return class sizes of noisy counts ``[K]``: they are brought to the sum N, which is public, and how
    they differ is shortened by the share that noise has in it. Then those below the noise's standard
    deviation, or below N / K where that is less, and below 1, are raised to it, by which the sum may be more
    than N: of a class that noise hides, a mean divided by its size would be of any length.

    Args:
        counted: the noisy counts.
        variance: that of their noise.
        num_examples: N.
    """
    mean, least = num_examples / len(counted), math.sqrt(variance)
    differences = counted - counted.mean()
    squares = differences.square().mean().clamp(min=1e-30)
    of_noise = variance * (1 - 1 / len(counted)) / squares
    return (mean + differences * (1 - of_noise).clamp(min=0)).clamp(min=max(1.0, min(least, mean)))
