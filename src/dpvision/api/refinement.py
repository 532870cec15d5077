"""What a refined release has cost: all that the earlier run and this one have spent, in one account."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpvision.api.pool_cost import events_of_card, warn_of_unknown_spending
from dpvision.api.publishing import GUARANTEE
from dpvision.api.releases import open_earlier
from dpvision.images import ImageSet
from dpvision.images.files import reading
from dpvision.methods.refined import Refined
from dpvision.methods.registry import AUTO
from dpvision.privacy import InputError, default_ledger_path
from dpvision.privacy.accounting import epsilon
from dpvision.privacy.events import merge_events
from dpvision.privacy.group_privacy import group_epsilons
from dpvision.reports.guarantee_file import in_words, unit_of
from dpvision.runs import RunDirectory
from dpvision.runs.places import is_run


def refining(run: str | os.PathLike[str], name: str) -> Refined:
    """Return the method of an earlier run, to refine what that has released.

    Args:
        run: the earlier run.
        name: the method that was asked for, which may be `AUTO`.

    Raises:
        InputError: it is another one, or the run released nothing that can be refined.
    """
    method, _ = open_earlier(run)
    if name not in (AUTO, method.name):
        raise InputError(f"{run} is of {method.name}, which alone can refine it, not {name}; name no method")
    return Refined(method)


def check_refined(
    run: str | os.PathLike[str], images: ImageSet, ledger: str | os.PathLike[str] | None
) -> None:
    """Check that an earlier run may be refined by one on these images, and warn where their ledger lacks it.

    Raises:
        InputError: it was on other images, or protects something else.
    """
    guarantee = open_earlier(run)[1].facts[GUARANTEE]
    if unit_of(guarantee) != images.protects:
        raise InputError(
            f"{run} protects {unit_of(guarantee)}s and a run on these images {images.protects}s; both must "
            "protect the same"
        )
    home = Path(run) if is_run(run) else Path(run).absolute().parent
    if is_run(home):
        private = RunDirectory.open(home).private
        if private and private.get("digest") != images.digest:
            raise InputError(f"{run} was made of other images; give those, read likewise")
    where = Path(ledger or default_ledger_path(images.digest))
    warn_of_unknown_spending(guarantee, f"the release of {run}", run, images, where)


def cost_of_both(earlier: Mapping[str, Any], this: Mapping[str, Any]) -> dict[str, Any]:
    """Return the guarantee of a release that is made of an earlier one and of this run's.

    Guarantee: ε is that of all events of both in one account, at this run's δ and relation, so that the files
    of both releases may be published. ``tests/api/test_refining.py`` compares it with the ledger of both.

    Args:
        earlier: the guarantee of the earlier release.
        this: that of this run, see :func:`dpvision.reports.guarantee`.

    Raises:
        InputError: the earlier one is damaged.
    """
    delta, relation, unit = this["delta"], this["neighboring_relation"], unit_of(this)
    with reading("the guarantee of the release that is refined"):
        events = merge_events([*events_of_card(earlier), *events_of_card(this)])
        broken_by = list(dict.fromkeys([*earlier["not_private_because"], *this["not_private_because"]]))
        total = epsilon(events, delta, relation)
        groups = group_epsilons(events, delta, relation) if unit == "image" else {}
        parts = earlier.get("refined", [_part(earlier)])
        joined = {name: [*earlier[name], *this[name]] for name in ("mechanisms", "events")}
        for name in ("taken_as_public", "not_covered"):
            joined[name] = list(dict.fromkeys([*earlier[name], *this[name]]))
        return {
            **this,
            **joined,
            **in_words(relation, unit, broken_by),
            "is_private": not broken_by,
            "not_private_because": broken_by,
            "epsilon": total,
            "target_epsilon": max(total, earlier["target_epsilon"] + this["target_epsilon"]),
            "accountant": {**this["accountant"], "epsilon_by_rdp": epsilon(events, delta, relation, "rdp")},
            "groups": [
                {"images": size, "epsilon": found if found < math.inf else None}
                for size, found in groups.items()
            ],
            "lost_steps": earlier["lost_steps"] + this["lost_steps"],
            "refined": [*parts, _part(this)],
        }


def _part(guarantee: Mapping[str, Any]) -> dict[str, Any]:
    return {"epsilon": guarantee["epsilon"], "delta": guarantee["delta"]}
