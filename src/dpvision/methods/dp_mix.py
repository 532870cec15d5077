"""DP-Mix (Bao et al., arXiv 2311.01295): DP-SGD on views that are mixed with each other (Self), or with
public images too (Diff). Sensitivity, sampling and account are those of DP-SGD: only settings are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dpvision.methods import dp_sgd_defaults
from dpvision.methods.dp_sgd import DPSGDConfig
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError

# There are as many views of an example as the paper has, so that steps cost what 34 steps of one view do.
DEFAULT_SECONDS = 900.0


def default_config(
    num_examples: int,
    image_shape: tuple[int, int, int],
    class_names: Sequence[str],
    budget: Budget,
    device: torch.device | str,
    overrides: Mapping[str, Any],
    *,
    k_diff: int,
) -> DPSGDConfig:
    """As :func:`dpvision.methods.dp_sgd_defaults.default_config`, with the paper's views: of Self for k_diff
    = 0, of Diff for 2. InputError if Diff has no pool.
    """
    if k_diff > 0 and not overrides.get("pool"):
        raise InputError("dp-mix-diff mixes with public images; name a pool of them (--pool)")
    views = {
        "augmult": 16,
        "pad": min(image_shape[1:]) // 8,
        "flip": image_shape[0] == 3,
        "k_self": 18,
        "k_diff": k_diff,
    }
    return dp_sgd_defaults.default_config(
        num_examples, image_shape, class_names, budget, device, views | dict(overrides), DEFAULT_SECONDS
    )
