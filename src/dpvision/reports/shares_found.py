"""The share of members that an attacker finds, as the card's strength has it at the rate that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shares_found(strength: Mapping[str, Any], of: Mapping[str, Any] | None = None) -> dict[str, float | None]:
    """Return the largest share of members found at the card's rate of false alarms, by how many such releases
    there are; None where nothing bounds it.

    Args:
        strength: the card's.
        of: the part of it that has ``true_positive_rates`` of its own, such as ``with_pool``; by default all.
    """
    at = strength["false_positive_rates"].index(strength["at"])
    rates = (of or strength)["true_positive_rates"]
    return {count: found and found[at] for count, found in rates.items()}
