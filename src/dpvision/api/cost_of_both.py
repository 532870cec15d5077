"""What two runs cost together, of which the later has taken up what the earlier released: all that both have
spent, in one account.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dpvision.api.pool_cost import events_of_card
from dpvision.images.files import reading
from dpvision.privacy.accounting import epsilon
from dpvision.privacy.events import merge_events
from dpvision.privacy.group_privacy import group_epsilons
from dpvision.reports.card import OF_A_CARD, accounted_by
from dpvision.reports.guarantee_file import in_words, unit_of


def cost_of_both(earlier: Mapping[str, Any], this: Mapping[str, Any]) -> dict[str, Any]:
    """Return the guarantee of a release that is made of an earlier one and of this run's.

    Guarantee: ε is that of all events of both in one account, at this run's δ and relation, so that the files
    of both releases may be published. What an earlier release has counted of one before that is among its
    events, once. ``tests/api/test_refining.py`` and ``test_going_on.py`` compare it with the ledger of both.

    Args:
        earlier: the guarantee of the earlier release, or its card.
        this: that of this run, see :func:`dpvision.reports.guarantee`.

    Raises:
        InputError: the earlier one is damaged.
    """
    delta, relation, unit = this["delta"], this["neighboring_relation"], unit_of(this)
    with reading("the guarantee of the earlier release"):
        events = merge_events([*events_of_card(earlier), *events_of_card(this)])
        broken_by = list(dict.fromkeys([*earlier["not_private_because"], *this["not_private_because"]]))
        total = epsilon(events, delta, relation)
        groups = group_epsilons(events, delta, relation) if unit == "image" else {}
        parts = earlier.get("parts", [_part(earlier)])
        joined = {name: [*earlier[name], *this[name]] for name in ("mechanisms", "events")}
        public = [*earlier["taken_as_public"], *_mixed_with(earlier), *this["taken_as_public"]]
        joined["taken_as_public"] = list(dict.fromkeys(public))
        read = [one for one in earlier["not_covered"] if one not in OF_A_CARD]
        joined["not_covered"] = list(dict.fromkeys([*read, *this["not_covered"]]))
        return {
            **this,
            **joined,
            **in_words(relation, unit, broken_by),
            "is_private": not broken_by,
            "not_private_because": broken_by,
            "epsilon": total,
            "target_epsilon": max(total, earlier["target_epsilon"] + this["target_epsilon"]),
            "accountant": {
                **this["accountant"],
                "epsilon_by": accounted_by(events),
                "epsilon_by_rdp": epsilon(events, delta, relation, "rdp"),
            },
            "groups": [
                {"images": size, "epsilon": found if found < math.inf else None}
                for size, found in groups.items()
            ],
            "sampler": "; ".join(
                dict.fromkeys([*earlier["sampler"].split("; "), *this["sampler"].split("; ")])
            ),
            "lost_steps": earlier["lost_steps"] + this["lost_steps"],
            "parts": [*parts, _part(this)],
        }


def _part(guarantee: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card has of one of the releases that it counts."""
    return {
        **{name: guarantee[name] for name in ("epsilon", "delta", "neighboring_relation", "num_examples")},
        "events": len(guarantee["events"]),
    }


def _mixed_with(earlier: Mapping[str, Any]) -> list[str]:
    """Say which public images an earlier release was made of, beside the private ones."""
    pool = earlier.get("pool")
    return [f"{pool['images']} public images that an earlier release was mixed with"] if pool else []
