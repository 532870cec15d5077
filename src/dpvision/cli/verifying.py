"""dpvision verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dpvision import api
from dpvision.cli.options import AsJson, Run
from dpvision.cli.output import printable, show, table


def verify(
    release: Run,
    card: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A card that `dpvision card --out` wrote of it, to be checked too.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a release from the release alone: every file, the card, and ε by other accountants.

    Examples:

        dpvision verify run/release

        dpvision verify downloaded-release --json

        dpvision verify run --card card

    Exit code 0 if all holds, 1 if a check fails. Nothing private is needed. The SHA-256 of guarantee.json is
    for comparing with what the publisher tells you by another way: nothing in the release guards that file.
    """
    found = api.verify(release, card=card)
    show({**asdict(found), "holds": found.holds}, as_json, _text(found))
    if not found.holds:
        raise typer.Exit(1)


def _text(found: api.Verification) -> str:
    ways = {
        name: "not known" if value is None else f"{value:.6g}"
        for name, value in found.epsilons.items()
        if value is not None or name == "integral"
    }
    rows: dict[str, object] = {
        "stated": f"epsilon {found.epsilon:.6g} at delta {found.delta:g} ({found.neighboring_relation}, "
        f"of one {found.unit})",
        **{f"epsilon by {name}": value for name, value in ways.items()},
        **{check.name: f"{'ok   ' if check.holds else 'FAILS'}  {check.found}" for check in found.checks},
        "SHA-256 of guarantee.json": found.sha256 or "there is none",
        "verdict": "all holds" if found.holds else "DOES NOT HOLD",
    }
    lists = {"Proved": found.proved, "Measured, not proved": found.measured, "Assumed": found.assumed}
    parts = [table(rows)]
    for title, items in lists.items():
        if items:
            told = [printable(f"{one['says']} ({one['see']})", breaks=False) for one in items]
            parts.append("\n  - ".join([f"{title}:", *told]))
    return "\n\n".join(parts)
