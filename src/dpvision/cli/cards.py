"""dpvision card."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from dpvision import api
from dpvision.cli.options import AsJson, Run, options_of, read_toml
from dpvision.cli.output import columns, printable, show
from dpvision.images.files import read_json, read_text_file
from dpvision.privacy.errors import InputError
from dpvision.reports.comparison import SETTING
from dpvision.reports.registry_facts import RegistryFacts
from dpvision.runs.places import check_free, find_release

_WIDTH = 110
_WIDEST = 36
"""Characters of a value that fit into a table; longer ones are below it."""
_LONGEST_CARD = 2**24
"""Bytes of a card that are read at most."""
_LONGEST = 1000
"""Characters of a value that are shown at most."""


@options_of(RegistryFacts, "facts")
def card(
    release: Run,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="OTHER", help="Another one, to compare the first with.", show_default=False),
    ] = None,
    registry: Annotated[
        bool,
        typer.Option("--registry", help="Write the release as an entry of the OpenDP deployments registry."),
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            "--facts",
            metavar="FILE.toml",
            help='A file with what the registry asks of a person (curator = "…", …). Options given here win.',
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PLACE",
            help="The folder for the card, made here; or the file of an entry, by default stdout.",
            show_default=False,
        ),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="FILE",
            help="What evaluate, audit or membership printed with --json, or RUN/private/test.json, to be on "
            "the card. No guarantee covers it. Repeat for more.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    *,
    facts: dict[str, Any],
) -> None:
    """Show the card of a release, write it with more in it, compare it, or register it.

    Examples:

        dpvision card run

        dpvision card run --out card --with run/private/test.json --with audit.json

        dpvision card run other-run

        dpvision card run --registry --facts facts.toml --out entry.yaml

    A release has its own card, as card.html, card.md and card.json. A card with results of other commands
    goes to a folder of its own: the results are exact; whether they may be published is yours to decide.

    The entry is YAML of the registry's tier 3. What only a person knows is asked for by name: give it as
    options, or in the file. The release is verified first; one that is NOT PRIVATE is refused.
    """
    if registry:
        if results:
            raise InputError("--with is for a card, and --registry writes an entry; leave one out")
        if other is not None:
            raise InputError("--registry writes the entry of one release; leave the other out")
        _register(release, _said(file) | facts, out, as_json)
        return
    if facts or file:
        raise InputError("--facts and what the registry asks of a person go with --registry; add that")
    if other is None:
        _show_card(release, out, results or [], as_json)
        return
    if out or results:
        raise InputError("--out and --with are of one release; leave the other out")
    found = api.compare(release, other)
    show(found.to_json(), as_json, _text(found))


def _show_card(release: Path, out: Path | None, results: list[Path], as_json: bool) -> None:
    """Write the card to a folder, or show that of the release."""
    if out is None and results:
        raise InputError("--with makes a card of its own; say where it is to be with --out FOLDER")
    if out is None:
        folder = find_release(release)
        text = read_text_file(folder / "card.md", _LONGEST_CARD)
        show(read_json(folder / "card.json"), as_json, printable(text.decode(errors="replace").rstrip("\n")))
        return
    check_free(out)
    written = api.write_card(release, out, results=results)
    show(written, as_json, f"wrote {out / 'card.html'}, card.md and card.json")


def _said(file: Path | None) -> dict[str, Any]:
    """Return the facts of a file. A day may be one of TOML's. InputError where one is none."""
    if file is None:
        return {}
    facts = {name: one.isoformat() if isinstance(one, date) else one for name, one in read_toml(file).items()}
    try:
        RegistryFacts.of(facts)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return facts


def _register(release: Path, facts: Mapping[str, Any], out: Path | None, as_json: bool) -> None:
    if out is not None and out.exists():
        raise InputError(f"{out} exists already; remove it, or name another file")
    entry = api.registry_entry(release, **facts)
    from dpvision.reports.registry_yaml import registry_yaml

    text = registry_yaml(entry)
    if out is not None:
        from dpvision.runs.files import write_atomically

        write_atomically(out, text.encode(), public=True)
        text = f"wrote {out}"
    show(entry, as_json, text.rstrip("\n"))


# Two releases --------------------------------------------------------------------------------------------


def _text(found: api.Comparison) -> str:
    told = {name: (_told(a), _told(b)) for name, (a, b) in found.differs.items()}
    short = {name: both for name, both in told.items() if max(map(len, both)) <= _WIDEST}
    private = " (this is private: do not publish it)" if found.together.is_private else ""
    parts = [
        columns([["", "A", "B"], *([name, *both] for name, both in short.items())]),
        *(
            f"{name}\n{_indented('A', a)}\n{_indented('B', b)}"
            for name, (a, b) in {"release": found.releases, **told}.items()
            if name not in short
        ),
        *([_accuracy(found)] if found.accuracy else []),
        f"Together: {found.together.says}{private}.",
        f"The same in both: {_same(found.same)}.",
    ]
    return "\n\n".join(part if "\n" in part else textwrap.fill(part, _WIDTH) for part in parts)


def _indented(name: str, text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=f"  {name}  ", subsequent_indent="     ")


def _same(facts: Mapping[str, Any]) -> str:
    """Write what is the same: short values, the names of others, and the number of settings."""
    told = {name: _told(value) for name, value in facts.items() if value is not None}
    settings = sum(name.startswith(SETTING) for name in told)
    shown = [
        f"{name} {value}" if len(value) <= _WIDEST else name
        for name, value in told.items()
        if not name.startswith(SETTING)
    ]
    return "; ".join([*shown, f"{settings} settings"])


def _accuracy(found: api.Comparison) -> str:
    one = found.accuracy
    assert one is not None
    verdict = "within" if one.is_within else "beyond"
    return (
        f"Accuracy: B is {100 * one.value:+.2f} points from A, 95 % interval {100 * one.low:+.2f} to "
        f"{100 * one.high:+.2f} (on {one.totals[0]} and {one.totals[1]} test images, one run each): "
        f"{verdict} what the choice of test images explains."
    )


def _told(value: Any) -> str:
    """Write a value for people."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "; ".join(map(_told, value)) if isinstance(value, list) else str(value)
    text = printable(text, breaks=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
