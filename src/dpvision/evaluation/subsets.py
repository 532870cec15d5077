"""Divide two sets of features by chance, after a look at whether they can be compared."""

from __future__ import annotations

import torch
from torch import Tensor

from dpvision.privacy.errors import InputError


def check_comparable(synthetic: Tensor, real: Tensor, fewest: int) -> None:
    """Raise InputError unless both are finite ``[N, D]`` with the same D, and N is at least fewest."""
    if synthetic.ndim != 2 or real.ndim != 2 or synthetic.shape[1] != real.shape[1]:
        raise InputError(
            "synthetic and real features must be of shape [N, D] with the same D, not "
            f"{list(synthetic.shape)} and {list(real.shape)}; take both from one encoder"
        )
    for what, features in (("synthetic", synthetic), ("real", real)):
        if len(features) < fewest:
            raise InputError(
                f"there are {len(features)} {what} images, too few to compare; give at least {fewest}"
            )
        if not features.isfinite().all():
            raise InputError(f"the features of {what} images are not finite; choose another encoder")


def random_groups(count: int, groups: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Divide 0..count − 1 at random into groups of one size, or two sizes that differ by one."""
    return torch.randperm(count, generator=generator).tensor_split(groups)
