"""Write the account of a data set's images for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from dpvision.cli.output import columns
from dpvision.privacy.standing import round_down

_THIS, _UNKNOWN = "→", "–"


def account_text(account: Mapping[str, Any]) -> str:
    """Write what :func:`dpvision.api.ledgers.account_of` returns: the whole, then a line for each run."""
    worst, fits = account["worst_image"], account["epsilon_fits"]
    elsewhere, most, unit = worst["runs_elsewhere"], worst["epsilon"], account["unit"]
    rows = [
        ["ledger", account["path"]],
        [f"{unit}s", str(account["num_examples"])],
        ["spent", f"ε {account['epsilon_spent']:.4g} at {_at(account)}"],
        ["with reservations", f"ε {account['epsilon_counted']:.4g}"],
        [
            f"worst {unit}",
            f"{'no bound' if most is None else f'ε {most:.4g}'}, {_count(worst['images'], unit)}"
            + (f", with {_count(elsewhere, 'run')} in other ledgers" if elsewhere else ""),
        ],
        *_limits(account["limits"]),
    ]
    if fits is not None:
        largest = round_down(fits)
        rows.append(["still fits", f"ε {largest:g}, as one Gaussian release" if largest else "nothing"])
    if not account["runs"]:
        return columns(rows)
    head = ["", "run", "opened (UTC)", "method", "state", "ε spent", "of", "images", "folder"]
    return f"{columns(rows)}\n\n{columns([head, *map(_run, account['runs'])])}"


def _limits(limits: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Write the limit that holds, and a dated line for each time that it was set."""
    if not limits:
        return [["owner's limit", "none"]]
    rows = [["owner's limit", f"ε {limits[-1]['epsilon']:g} at {_at(limits[-1])}"]]
    for before, one in zip([None, *limits], limits, strict=False):
        how = "set"
        if before is not None and one["epsilon"] != before["epsilon"]:
            how = "raised" if one["epsilon"] > before["epsilon"] else "lowered"
        rows.append([f"  {_minute(one['time'])}", f"{how} to ε {one['epsilon']:g} at {_at(one)}"])
    return rows


def _at(one: Mapping[str, Any]) -> str:
    return f"delta {one['delta']:g} ({one['neighboring_relation']})"


def _run(run: Mapping[str, Any]) -> list[str]:
    return [
        _THIS if run["this"] else "",
        run["run"],
        _minute(run["opened"]),
        run["method"] or _UNKNOWN,
        run["state"],
        f"{run['epsilon_spent']:.4g}",
        f"{run['epsilon_planned']:.4g}",
        _UNKNOWN if run["images"] is None else str(run["images"]),
        run["folder"] or _UNKNOWN,
    ]


def _minute(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
