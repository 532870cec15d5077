"""DP-Mix (Bao et al., arXiv 2311.01295): DP-SGD on views that are mixed with each other (Self), or with
public images too (Diff). Sensitivity, sampling and account are those of DP-SGD: only settings are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dpvision.methods.dp_sgd import DPSGD, DPSGDConfig
from dpvision.privacy.budget import Budget
from dpvision.privacy.errors import InputError
from dpvision.privacy.facts import PublicFacts


class DPMixSelf(DPSGD):
    """Train by noisy gradients of views that are mixed with each other (Bao et al., arXiv 2311.01295)."""

    name = "dp-mix-self"
    k_diff = 0
    """The number of public images that each example is mixed with by default, as in the paper."""

    most_seconds = 900.0
    """Longest training by default, in seconds. An example has as many views as in the paper: steps cost what
    34 of one view do.
    """

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPSGDConfig:
        """Choose as DP-SGD does, with the paper's views."""
        views = {
            "augmult": 16,
            "pad": min(facts.image_shape[1:]) // 8,
            "flip": facts.image_shape[0] == 3,
            "k_self": 18,
            "k_diff": self.k_diff,
        }
        return super().default_config(facts, budget, device, views | dict(overrides))


class DPMixDiff(DPMixSelf):
    """Train by noisy gradients of views mixed with each other and with public images (Bao et al.)."""

    name = "dp-mix-diff"
    k_diff = 2

    def default_config(
        self, facts: PublicFacts, budget: Budget, device: torch.device, overrides: Mapping[str, Any]
    ) -> DPSGDConfig:
        """Choose as DP-Mix_Self does. InputError where no pool of public images is named."""
        if not overrides.get("pool"):
            raise InputError("dp-mix-diff mixes with public images; name a pool of them (--pool)")
        return super().default_config(facts, budget, device, overrides)
